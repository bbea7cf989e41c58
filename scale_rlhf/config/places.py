"""Is it a file or a hub name, and where is it."""

import difflib
import os
import re
from pathlib import Path

from scale_rlhf.errors import DataError

FORMATS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".csv", ".csv.gz")


def is_local(path: str) -> bool:
    """True where `path` means a file or folder here, False where it is a hub name such as Anthropic/hh-rlhf."""
    if path.endswith(FORMATS) or os.path.exists(os.path.expanduser(path)):
        return True
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", path):
        return True
    return "/" in path and os.path.isdir(path.split("/")[0])  # runs/x: something that is not there, not a hub name


def find_file(path: str, key: str = "") -> Path:
    """The existing file or folder of that name; DataError names the nearest one where there is none."""
    where = f"{key}: " if key else ""
    try:
        found = Path(path).expanduser()
        if found.exists():
            return found
        folder = found.parent
        if not folder.is_dir():
            raise DataError(f"{where}file {path} does not exist: there is no folder {folder.absolute()}")
        names = sorted(p.name for p in folder.iterdir())
    except (OSError, RuntimeError) as error:  # a name too long, a folder that may not be read, ~ of a user that is not there
        raise DataError(f"{where}file {path[:200]} cannot be looked for: {error}") from None
    near = difflib.get_close_matches(found.name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {folder / near[0]}?" if near else ""
    raise DataError(f"{where}file {path} does not exist (looked in {folder.absolute()}){hint}")
