"""Disks that are full, read-only or gone: whatever fails there becomes a message that names the file and what is wrong."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scale_rlhf.errors import DiskError

_REASONS = {
    errno.ENOSPC: "the disk is full", errno.EDQUOT: "your quota of the disk is used up",
    errno.EROFS: "the file system is read-only",
}


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Inside, `path` (a file, or files in a folder) is written. Raises DiskError in place of an error of the system."""
    try:
        yield
    except Exception as error:
        number = _number(error)
        if number is None or isinstance(error, DiskError):
            raise
        why = _REASONS.get(number) or os.strerror(number)
        raise DiskError(f"{path} cannot be written: {why}{_room(number, path)}") from error


def reason(error: BaseException) -> str | None:
    """What is wrong with the disk, where it is the disk that an error is about."""
    return _REASONS.get(_number(error))


def _number(error: BaseException) -> int | None:
    """The system's, also where a library in Rust hands it on as text (safetensors)."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _room(number: int, path: Path | str) -> str:
    """How much is free there, where that is the trouble."""
    if number != errno.ENOSPC:
        return ""
    path = Path(path).absolute()
    there = next(one for one in (path, *path.parents) if one.exists())
    disk = shutil.disk_usage(there)
    return f" ({disk.free >> 20} of its {disk.total >> 20} MiB are free)"
