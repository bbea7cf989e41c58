"""Our processes, shared-memory files and sockets: how much memory they take, and that none is left behind."""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")
# What a run's processes leave there when they are killed: published weights, DeepSpeed's buffers, Python's and torch's segments.
_PREFIXES = ("scale-rlhf-", "deepspeed_allreduce_buffer_", "psm_", "torch_")

_SOCKETS = "scale-rlhf-sockets-"


class ProcessWatch:
    """Samples the process tree under this process in a thread: its peak memory, and every process that was ever in it.

    Memory is the sum of resident sizes, in bytes; pages that two processes share count twice, so it is an upper bound.
    """

    def __init__(self, every_seconds: float = 1.0):
        self.peak = 0
        self._every, self._stop = every_seconds, threading.Event()
        self._seen: dict[int, psutil.Process] = {}
        self._thread = threading.Thread(target=self._watch, name="process-watch", daemon=True)

    def __enter__(self) -> "ProcessWatch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def restart_peak(self) -> int:
        """Bytes at the peak since the last call."""
        self.sample()
        peak, self.peak = self.peak, 0
        return peak

    def sample(self) -> None:
        """Look once, now."""
        total = 0
        processes = [psutil.Process(), *_children()]
        for process in processes:
            try:
                total += process.memory_info().rss
            except psutil.Error:  # it ended meanwhile
                continue
            self._seen.setdefault(process.pid, process)
        self.peak = max(self.peak, total)

    def left(self) -> list[psutil.Process]:
        """Processes that were once under this one and are alive, wherever they hang now."""
        self.sample()
        return [process for process in list(self._seen.values()) if process.pid != os.getpid() and _alive(process)]

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self.sample()


def end(processes: Iterable[psutil.Process], grace_seconds: float = 5.0) -> None:
    """Waits for processes to end; then asks them to; then ends them."""
    _, alive = psutil.wait_procs(list(processes), timeout=grace_seconds)
    for send in ("terminate", "kill"):
        for process in alive:
            try:
                getattr(process, send)()
            except psutil.Error:  # it ended meanwhile
                continue
        _, alive = psutil.wait_procs(alive, timeout=3.0)


def shared_memory_files() -> set[Path]:
    """Files in shared memory of the kinds that runs make, of this user."""
    found = set()
    for path in SHARED_MEMORY.glob("*"):
        try:
            if path.name.startswith(_PREFIXES) and path.stat().st_uid == os.getuid():
                found.add(path)
        except OSError:  # it was removed meanwhile
            continue
    return found


def remove_shared_memory(before: set[Path]) -> list[Path]:
    """Removes files that were not there `before` and that no process has mapped; another run's live ones stay."""
    candidates = shared_memory_files() - before
    if not candidates:
        return []
    mapped = _mapped_files()
    removed = [path for path in sorted(candidates) if str(path) not in mapped]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


def socket_folder() -> Path:
    """A folder for this process's sockets, which nobody else may enter. Removes those of processes that were killed."""
    remove_socket_folders()
    folder = Path(tempfile.gettempdir()) / f"{_SOCKETS}{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)  # of a process that had our number
    folder.mkdir(mode=0o700)
    return folder


def remove_socket_folders() -> None:
    """Removes socket folders of this user whose process is gone: one that is killed cleans up nothing."""
    for path in Path(tempfile.gettempdir()).glob(f"{_SOCKETS}*"):
        owner = path.name.removeprefix(_SOCKETS)
        if owner.isdigit() and not psutil.pid_exists(int(owner)) and path.lstat().st_uid == os.getuid():
            shutil.rmtree(path, ignore_errors=True)


def _mapped_files() -> set[str]:
    mapped = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            lines = maps.read_text().splitlines()
        except OSError:  # another user's, or ended
            continue
        mapped |= {line.split(maxsplit=5)[5].removesuffix(" (deleted)") for line in lines if str(SHARED_MEMORY) in line}
    return mapped


def _children() -> list[psutil.Process]:
    try:
        return psutil.Process().children(recursive=True)
    except psutil.Error:
        return []


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
