"""A file system of its own that is really small, full or read-only: a tmpfs, mounted for the length of a test."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scale_rlhf.orchestration import run_lock

STUFFING = "stuffing"  # the file that fills it


class SmallDisk:
    """What a test does to a mounted tmpfs."""

    def __init__(self, path: Path):
        self.path = path

    def resize(self, size: str) -> None:
        """size: as mount has it, such as "50m"."""
        _mount("-o", f"remount,size={size}", str(self.path))

    def read_only(self, wanted: bool = True) -> None:
        _mount("-o", "remount,ro" if wanted else "remount,rw", str(self.path))

    def fill(self, left: int = 0) -> None:
        """Take all room but so many bytes."""
        there = os.statvfs(self.path)
        with open(self.path / STUFFING, "ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), there.f_bavail * there.f_frsize)
            file.truncate(max(0, os.fstat(file.fileno()).st_size - left))

    def make_room(self) -> None:
        (self.path / STUFFING).unlink()

    def files(self) -> dict[str, bytes]:
        """All that is on it, by name, but the stuffing, and the note of who is at work at a run."""
        paths = sorted(path for path in self.path.rglob("*") if path.is_file() and path.name not in (STUFFING, run_lock.FILE))
        return {str(path.relative_to(self.path)): path.read_bytes() for path in paths}


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[SmallDisk]:
    """Mounted at `path`, which is made. Skips the test where that is not allowed."""
    path.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"mounting a tmpfs needs root, and the right to mount: {getattr(error, 'stderr', error)}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True, text=True)
