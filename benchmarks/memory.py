"""Peak memory of a process and all under it: proportional set sizes, in which a shared page counts once."""

import threading

import psutil


class PeakMemory:
    """Context manager; looks every `every_seconds`. Watch a block that is not timed: looking costs time."""

    def __init__(self, pid: int, every_seconds: float = 0.5):
        self.peak = 0  # bytes
        self.process, self.every = psutil.Process(pid), every_seconds
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._stop.set()
        self._thread.join()
        self.look()

    def look(self) -> None:
        self.peak = max(self.peak, tree(self.process))

    def _watch(self) -> None:
        while not self._stop.wait(self.every):
            self.look()


def tree(process: psutil.Process) -> int:
    """Proportional set size in bytes of a process and its descendants."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:  # it ended meanwhile, or is not ours
            continue
    return total
