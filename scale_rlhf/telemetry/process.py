"""What every process of a run does about itself: it marks its log lines, reports its memory, and keeps its gauges alive.

The controller also reports the disk that the run's folder is on.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from scale_rlhf.telemetry import instruments, logs

EVERY = 5.0  # seconds; Ray exports every ten, and forgets after twenty


@contextmanager
def controller(run: str, folder: Path) -> Iterator[None]:
    """Inside, this process is the controller of that run, and so it says in FOLDER/controller.log."""
    os.environ[logs.RUN] = run
    done = begin(logs.CONTROLLER, folder)
    try:
        yield
    finally:
        done.set()
        logs.end()
        del os.environ[logs.RUN]


def begin(who: str, folder: Path | None = None) -> threading.Event:
    """This process is `who` from now on. folder: of the run, for the controller. Returns what ends its reports when set."""
    logs.begin(who, folder / "controller.log" if folder else None)
    done = threading.Event()
    threading.Thread(target=_report, args=(who, folder, done), name="report", daemon=True).start()
    return done


def _report(who: str, folder: Path | None, done: threading.Event) -> None:
    role, _, number = who.partition("/")
    while True:
        with suppress(psutil.Error, OSError):  # a child that has just ended, a disk that is away for a moment
            resident = memory(psutil.Process(), children=who != logs.CONTROLLER)
            instruments.record("memory_bytes", resident, role=role, replica=number)
            if folder is not None:
                disk = shutil.disk_usage(folder)
                instruments.record("disk_free_bytes", disk.free)
                instruments.record("disk_total_bytes", disk.total)
        instruments.refresh()
        if done.wait(EVERY):
            return


def memory(process: psutil.Process, children: bool) -> int:
    """Resident bytes of a process, with those it has started (vLLM's engine is a child). What is shared counts for each."""
    total = process.memory_info().rss
    for child in process.children(recursive=True) if children else ():
        with suppress(psutil.Error):
            total += child.memory_info().rss
    return total
