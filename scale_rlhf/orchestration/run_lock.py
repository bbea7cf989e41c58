"""One process at a time works at a run. The system takes the lock back when that process dies, however it dies."""

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from scale_rlhf import disk
from scale_rlhf.errors import RunError

FILE = ".at-work"
log = logging.getLogger(__name__)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, nobody else works at the run in `folder`. Raises RunError, which says who does, where somebody does already.

    Two hosts see each other's locks where their shared file system has flock (NFS since version 4, Lustre with -o flock);
    where it has none, the run's log says so, and the run goes on.
    """
    with disk.writing(folder / FILE):
        file = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _locked(file, folder):
            raise RunError(f"{folder}: {_holder(file)} works at this run. Two would spoil each other's files: wait for its end, "
                           f"or stop it (Ctrl-C there, kill -TERM, or scale-rlhf stop), then scale-rlhf resume {folder}")
        with disk.writing(folder / FILE):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}).encode(), 0)
        yield
    finally:
        os.close(file)


def at_work(folder: Path) -> str | None:
    """Who works at the run in `folder`: "process PID on HOST, since TIME"; None where nobody does."""
    try:
        file = os.open(folder / FILE, os.O_RDWR)
    except OSError:
        return None
    try:
        return None if _locked(file, folder) else _holder(file)
    finally:
        os.close(file)


def _locked(file: int, folder: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("%s: the file system has no locks (%s): nothing keeps a second process from this run", folder, error.strerror)
    return True


def _holder(file: int) -> str:
    try:
        told = json.loads(os.pread(file, 1000, 0))
        return f"process {told['pid']} on {told['host']}, since {told['since']},"
    except (OSError, ValueError, KeyError, TypeError):  # it has not written yet
        return "another process"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
