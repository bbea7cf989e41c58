"""Rows of a data file, each with the place it stands at, so that every complaint can name file and line."""

import csv
import difflib
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from scale_rlhf.config.places import FORMATS, find_file, is_local
from scale_rlhf.config.schema import DataSource
from scale_rlhf.errors import DataError

Located = tuple[str, dict]  # ("FILE:LINE", row)


def read_rows(source: DataSource, key: str = "") -> Iterator[Located]:
    """Yields ("FILE:LINE", row) of a file or hub data set, its columns renamed as `source.columns` says.

    Raises DataError for whatever cannot be read, naming the file and, where there is one, the line.
    key: the configuration key that names the source, for messages.
    """
    rows = _file_rows(source, find_file(source.path, key)) if is_local(source.path) else _hub_rows(source, key)
    empty = True
    for at, row in islice(rows, source.limit):
        empty = False
        yield at, _renamed(row, source.columns, at, key)
    if empty:
        raise DataError(f"{key + ': ' if key else ''}{source.path} has no rows; expected at least one")


def _file_rows(source: DataSource, path: Path) -> Iterator[Located]:
    if path.is_dir():
        return _hub_rows(source, "")
    name = path.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz", ".json", ".json.gz")):
        return _json_rows(path)
    if name.endswith((".csv", ".csv.gz")):
        return _csv_rows(path)
    if name.endswith(".parquet"):
        return _parquet_rows(path)
    raise DataError(f"{path}: unknown kind of file; expected one of {', '.join(FORMATS)}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 text (byte {error.start + 1} of the line)") from None
    except (OSError, EOFError, zlib.error) as error:  # gzip's own errors are OSErrors; a cut file is an EOFError
        raise DataError(f"{path}:{number + 1}: cannot be read: {error}") from None


def _json_rows(path: Path) -> Iterator[Located]:
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        return
    if first[1].lstrip().startswith("["):  # one array instead of one object a line
        yield from _json_array(path, first, lines)
        return
    yield from ((f"{path}:{number}", _object(text, f"{path}:{number}")) for number, text in _chain(first, lines))


def _chain(first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from rest


def _object(text: str, at: str) -> dict:
    try:
        row = json.loads(text.rstrip())
    except json.JSONDecodeError as error:
        raise DataError(f"{at}: malformed JSON: {error.msg} at column {error.colno}; expected one JSON object a line") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists nested thousands deep
        raise DataError(f"{at}: JSON that cannot be read: {error}") from None
    return _as_object(row, at)


def _as_object(row: object, at: str) -> dict:
    if not isinstance(row, dict):
        raise DataError(f"{at}: expected a JSON object with named columns, found {shown(row)}")
    return row


def _json_array(path: Path, first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[Located]:
    blank_before = first[0] - 1
    # _lines leaves blank lines out: put them back, so that positions are lines of the file
    parts, previous = [], blank_before
    for number, text in _chain(first, rest):
        parts.append("\n" * (number - previous - 1) + text)
        previous = number
    text, decoder, position, line = "".join(parts), json.JSONDecoder(), 0, blank_before + 1
    position = text.index("[") + 1
    counted = 0
    separator = re.compile(r"[\s,]*")
    while True:
        position = separator.match(text, position).end()
        line += text.count("\n", counted, position)
        counted = position
        at = f"{path}:{line}"
        if text[position : position + 1] == "]":
            return
        try:
            row, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            at = f"{path}:{error.lineno + blank_before}"
            raise DataError(f"{at}: malformed JSON: {error.msg} at column {error.colno}") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{at}: JSON that cannot be read: {error}") from None
        yield at, _as_object(row, at)


def _csv_rows(path: Path) -> Iterator[Located]:
    reader = csv.reader(text for _, text in _lines(path))
    try:
        header = next(reader, None)
        if header is None:
            return
        for cells in reader:
            at = f"{path}:{reader.line_num}"
            if len(cells) != len(header):
                raise DataError(f"{at}: {len(cells)} cells, expected {len(header)} as in the first line ({', '.join(header)})")
            yield at, {name: _cell(cell) for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: malformed CSV: {error}") from None


def _cell(cell: str) -> object:
    """Lists (messages, responses, ratings) stand in a CSV cell as JSON."""
    if cell.startswith("["):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def _parquet_rows(path: Path) -> Iterator[Located]:
    import pyarrow
    import pyarrow.parquet

    try:
        count = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    count += 1
                    yield f"{path}: row {count}", row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {_first_line(error)}") from None


def _hub_rows(source: DataSource, key: str) -> Iterator[Located]:
    import datasets

    from scale_rlhf.config.model_files import hub_reachable

    datasets.disable_progress_bars()
    split = source.split if source.limit is None or "[" in source.split else f"{source.split}[:{source.limit}]"
    datasets.config.HF_HUB_OFFLINE = not hub_reachable()  # its own client tries for half a minute before it turns to the cache
    try:
        rows = datasets.load_dataset(source.path, split=split)
    except Exception as error:  # the library raises a dozen kinds: no network, no such name, no such split, a broken file
        raise DataError(
            f"{key + ': ' if key else ''}{source.path} [{source.split}] is not a file here and could not be loaded from the hub: "
            f"{_first_line(error)}. Give the path of a local file ({', '.join(FORMATS)}) or check name, split and network"
        ) from None
    for number, row in enumerate(rows, 1):
        yield f"{source.path}[{source.split}]: row {number}", row


def _renamed(row: dict, columns: dict[str, str], at: str, key: str) -> dict:
    row = dict(row)
    for ours, theirs in columns.items():
        if theirs not in row:
            raise DataError(f"{at}: no column `{theirs}` ({key or 'source'}.columns.{ours}); {has(row)}{nearest(theirs, row)}")
        row[ours] = row.pop(theirs)
    return row


def nearest(name: str, names) -> str:
    """"; did you mean `x`?" or nothing."""
    near = difflib.get_close_matches(name, [n for n in names if isinstance(n, str)], n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""


def has(row: dict) -> str:
    """What columns a row has, in words."""
    return "the row has " + (", ".join(f"`{name}`" for name in list(row)[:12]) or "no columns")


def shown(value: object) -> str:
    """A value as a message shows it: its type, and its beginning."""
    text = repr(value) if not isinstance(value, (list, dict)) else json.dumps(value, default=repr)
    return f"{type(value).__name__} {text[:60]}{'…' if len(text) > 60 else ''}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
