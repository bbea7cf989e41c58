"""A file of a public form read, and one of ours written: whole or not at all."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scale_rlhf.config.places import find_file, is_local
from scale_rlhf.config.schema import DataSource
from scale_rlhf.data.convert.form import Form
from scale_rlhf.data.figures import Listed
from scale_rlhf.data.kinds import said
from scale_rlhf.data.progress import rows_with_progress
from scale_rlhf.disk import writing
from scale_rlhf.errors import DataError

ENDINGS = (".jsonl", ".jsonl.gz")


@dataclass
class Done:
    """What became of the rows."""

    bad: Listed
    read: int = 0
    left_out: int = 0  # as they say nothing
    written: int = 0


def convert(form: Form, source: DataSource, out: Path, keep: int = 10) -> Done:
    """Write the rows of `source` to `out` in our form; bad ones are left out, and the first `keep` of them named.

    Raises DataError where `out` is there already or has another ending, and where `source` cannot be read to its end.
    """
    if not out.name.endswith(ENDINGS):
        raise DataError(f"{out}: a converted file is JSONL; expected a name that ends with {' or '.join(ENDINGS)}")
    if out.exists():
        raise DataError(f"{out} is there already; give another name, or remove it")
    if is_local(source.path):
        find_file(source.path)
    done = Done(Listed(keep))
    rows = _converted(form, source, done)
    partial = out.with_name(f"{out.name}.partial")
    try:
        with writing(out):
            opened = gzip.open if out.suffix == ".gz" else open
            with opened(partial, "wt", encoding="utf-8") as file:
                for row in _gathered(rows) if form.gathers else rows:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    done.written += 1
            partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return done


def _converted(form: Form, source: DataSource, done: Done) -> Iterator[dict]:
    """Rows of ours, each sound by the check that its readers will make."""
    for at, row in rows_with_progress(source):
        done.read += 1
        try:
            if isinstance(row, DataError):
                raise row
            ours = form.row(row, at)
            if ours is not None:
                said(ours, at)
        except DataError as error:
            done.bad.add(str(error))
            continue
        if ours is None:
            done.left_out += 1
        else:
            yield ours


def _gathered(rows: Iterator[dict]) -> Iterator[dict]:
    """Neighbouring ratings of the same aspects for one prompt as one row; of the same response as those of several raters."""
    last: dict = {}
    for row in rows:
        if "ratings" in last and row["messages"] == last["messages"] and row.get("ratings", {}).keys() == last["ratings"].keys():
            _add(last, row)
            continue
        if last:
            yield last
        last = row
    if last:
        yield last


def _add(row: dict, other: dict) -> None:
    """The one response of `other` to those of `row`."""
    response = other["responses"][0]
    known = row["responses"].index(response) if response in row["responses"] else None
    if known is None:
        row["responses"].append(response)
    for aspect, (numbers,) in other["ratings"].items():
        if known is None:
            row["ratings"][aspect].append(numbers)
        else:
            row["ratings"][aspect][known] += numbers
