"""Which processes run on which core."""

import os
from collections.abc import Iterable, Sequence

import psutil


def pin(engines: Sequence, engine_core: int, other_core: int) -> None:
    """The engine actors with all under them on one core, everything else under this process, itself too, on another."""
    import ray

    owners = ray.get([engine.__ray_call__.remote(_pid) for engine in engines], timeout=60)
    decoding = {process.pid for owner in owners for process in _tree(owner)}
    for process in _tree(os.getpid()):
        _bind(process.pid, {engine_core if process.pid in decoding else other_core})


def _pid(actor) -> int:
    return os.getpid()


def _tree(pid: int) -> Iterable[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _bind(pid: int, cores: set[int]) -> None:
    """Every thread of a process; those that it starts later inherit."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), cores)
    except (OSError, ProcessLookupError):  # it ended meanwhile
        return
