"""Rows of a data file, each with the place it stands at, so that every complaint can name file and line."""

import csv
import difflib
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from scale_rlhf.config.places import FORMATS, find_file, is_local
from scale_rlhf.config.schema import DataSource
from scale_rlhf.errors import DataError

Located = tuple[str, dict]  # ("FILE:LINE", row)
Found = tuple[str, dict | DataError]  # what is wrong with a line stands in the place of its row
Moved = Callable[[int], None]  # told how many bytes of the file lie behind
LONGEST_LIST = 300  # characters of a list of names that a message shows
DEEPEST = 50  # levels of nesting: rows travel to actors and services, whose libraries end at some hundreds


def read_rows(source: DataSource, key: str = "") -> Iterator[Located]:
    """Yields ("FILE:LINE", row) of a file or hub data set, its columns renamed as `source.columns` says.

    Raises DataError for whatever cannot be read, naming the file and, where there is one, the line.
    key: the configuration key that names the source, for messages.
    """
    empty = True
    for at, row in each_row(source, key):
        if isinstance(row, DataError):
            raise row
        empty = False
        yield at, row
    if empty:
        raise DataError(f"{key + ': ' if key else ''}{source.path} has no rows; expected at least one")


def each_row(source: DataSource, key: str = "", moved: Moved | None = None) -> Iterator[Found]:
    """The same, with the DataError in place of a row of which a single line is wrong; the lines after it are read.

    What is wrong with the whole file (it is not there, cut off, no Parquet) is raised. moved: called as a file is read.
    """
    local = is_local(source.path)
    rows = _file_rows(source, find_file(source.path, key), moved) if local else _hub_rows(source, key)
    for at, row in islice(rows, source.limit):
        yield at, row if isinstance(row, DataError) else _renamed(row, source.columns, at, key)


def _file_rows(source: DataSource, path: Path, moved: Moved | None) -> Iterator[Found]:
    if path.is_dir():
        return _hub_rows(source, "")
    if not path.is_file():
        raise DataError(f"{path}: expected a file or a folder, found neither: a pipe or a device cannot be read twice")
    name = path.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz", ".json", ".json.gz")):
        return _json_rows(path, moved)
    if name.endswith((".csv", ".csv.gz")):
        return _csv_rows(path, moved)
    if name.endswith(".parquet"):
        return _parquet_rows(path, moved)
    raise DataError(f"{path}: unknown kind of file; expected one of {', '.join(FORMATS)}")


def _lines(path: Path, moved: Moved | None) -> Iterator[tuple[int, str | DataError]]:
    """Number and text of each line; what is wrong with it where it is no text."""
    number = 0
    try:
        with open(path, "rb") as raw, gzip.open(raw) if path.name.lower().endswith(".gz") else raw as file:
            for number, line in enumerate(file, 1):
                if moved:
                    moved(raw.tell())
                yield number, _decoded(line, f"{path}:{number}", first=number == 1)
    except (OSError, EOFError, zlib.error) as error:  # gzip's own errors are OSErrors; a cut file is an EOFError
        raise DataError(f"{path}:{number + 1}: cannot be read: {error}") from None


def _decoded(line: bytes, at: str, first: bool) -> str | DataError:
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        return DataError(f"{at}: not UTF-8 text (byte {error.start + 1} of the line)")


def _sound(lines: Iterator[tuple[int, str | DataError]]) -> Iterator[tuple[int, str]]:
    """For forms in which a row is not a line: what is wrong with one line is wrong with the file."""
    for number, text in lines:
        if isinstance(text, DataError):
            raise text
        yield number, text


def _json_rows(path: Path, moved: Moved | None) -> Iterator[Found]:
    lines = ((number, text) for number, text in _lines(path, moved) if isinstance(text, DataError) or text.strip())
    first = next(lines, None)
    if first is None:
        return
    if isinstance(first[1], str) and first[1].lstrip().startswith("["):  # one array instead of one object a line
        yield from _json_array(path, first, _sound(lines))
        return
    for number, text in _chain(first, lines):
        at = f"{path}:{number}"
        yield at, text if isinstance(text, DataError) else _object(text, at)


def _chain(first: tuple, rest: Iterator[tuple]) -> Iterator[tuple]:
    yield first
    yield from rest


def _object(text: str, at: str) -> dict | DataError:
    try:
        return _as_object(json.loads(text.rstrip()), at)
    except DataError as error:
        return error
    except json.JSONDecodeError as error:
        return DataError(f"{at}: malformed JSON: {error.msg} at column {error.colno}; expected one JSON object a line")
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists nested thousands deep
        return DataError(f"{at}: JSON that cannot be read: {error}")


def _as_object(row: object, at: str) -> dict:
    if not isinstance(row, dict):
        raise DataError(f"{at}: expected a JSON object with named columns, found {shown(row)}")
    if _deeper(row, DEEPEST):
        raise DataError(f"{at}: JSON that cannot be read: lists or objects nested more than {DEEPEST} deep")
    return row


def _deeper(value: object, levels: int) -> bool:
    """Whether lists and objects are nested in each other more than so many levels deep."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(each, levels - 1) for each in inner if isinstance(each, (dict, list)))


def _json_array(path: Path, first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[Located]:
    blank_before = first[0] - 1
    # blank lines were left out: put them back, so that positions are lines of the file
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
            if text[position + 1 :].strip():
                raise DataError(f"{at}: there is more after the end of the list; expected one list, or one JSON object a line")
            return
        try:
            row, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            at = f"{path}:{error.lineno + blank_before}"
            raise DataError(f"{at}: malformed JSON: {error.msg} at column {error.colno}") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{at}: JSON that cannot be read: {error}") from None
        yield at, _as_object(row, at)


def _csv_rows(path: Path, moved: Moved | None) -> Iterator[Found]:
    reader = csv.reader(text for _, text in _sound(_lines(path, moved)))
    filled = (cells for cells in reader if any(cell.strip() for cell in cells))  # a blank line is no row
    try:
        header = next(filled, None)
        if header is None:
            return
        if len(set(header)) < len(header):
            raise DataError(f"{path}:{reader.line_num}: two columns of one name; found {', '.join(header)[:LONGEST_LIST]}")
        for cells in filled:
            at = f"{path}:{reader.line_num}"
            yield at, _cells(header, cells, at)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: malformed CSV: {error}") from None


def _cells(header: list[str], cells: list[str], at: str) -> dict | DataError:
    if len(cells) != len(header):
        names = ", ".join(header)[:LONGEST_LIST]
        return DataError(f"{at}: {len(cells)} cells, expected {len(header)} as in the first line ({names})")
    try:
        return {name: _cell(cell, at) for name, cell in zip(header, cells, strict=True)}
    except DataError as error:
        return error


def _cell(cell: str, at: str) -> object:
    """Lists (messages, responses, ratings) stand in a CSV cell as JSON."""
    if cell.startswith("["):
        try:
            value = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        return _as_object({"": value}, at)[""]
    return cell


def _parquet_rows(path: Path, moved: Moved | None) -> Iterator[Located]:
    import pyarrow
    import pyarrow.parquet

    try:
        count = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            size, rows = path.stat().st_size, file.metadata.num_rows
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    count += 1
                    yield f"{path}: row {count}", row
                if moved and rows:
                    moved(size * count // rows)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        # dates before year 1, and sizes of gigabytes, are what a broken file says as well
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
    number = 0
    try:
        for number, row in enumerate(rows, 1):
            yield f"{source.path}[{source.split}]: row {number}", row
    except Exception as error:  # of what decodes pictures, sounds and the like
        raise DataError(f"{source.path}[{source.split}]: row {number + 1} cannot be read: {_first_line(error)}") from None


def _renamed(row: dict, columns: dict[str, str], at: str, key: str) -> dict | DataError:
    """The row under our names. All of them at once: two columns may change places."""
    for ours, theirs in columns.items():
        if theirs not in row:
            return DataError(f"{at}: no column `{theirs}` ({key or 'source'}.columns.{ours}); {has(row)}{nearest(theirs, row)}")
    kept = {name: value for name, value in row.items() if name not in columns.values()}
    return kept | {ours: row[theirs] for ours, theirs in columns.items()}


def nearest(name: str, names) -> str:
    """"; did you mean `x`?" or nothing."""
    near = difflib.get_close_matches(name, [n for n in names if isinstance(n, str)], n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""


def has(row: dict) -> str:
    """What columns a row has, in words."""
    return "the row has " + (", ".join(f"`{str(name)[:60]}`" for name in list(row)[:12]) or "no columns")


def shown(value: object) -> str:
    """A value as a message shows it: its type, and its beginning."""
    try:
        text = repr(value) if not isinstance(value, (list, dict)) else json.dumps(value, default=repr)
    except (TypeError, ValueError, RecursionError):  # names that are no text, integers of over 4,300 digits, deep nesting
        text = "that cannot be shown"
    return f"{type(value).__name__} {text[:60]}{'…' if len(text) > 60 else ''}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
