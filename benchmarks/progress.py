"""What runs now, and how long the rest will take: a line that is rewritten on a terminal, plain lines in a log."""

import time
from collections import defaultdict

from rich.console import Console


class Progress:
    """Counts steps of unequal length. The time left is guessed from how long each kind of step took."""

    def __init__(self, title: str, steps: int, *, expected_seconds: float = 0.0, console: Console | None = None):
        """steps: how many times `done` will be called. expected_seconds: a first guess of the whole."""
        self.title, self.steps, self.expected = title, steps, expected_seconds
        self.console = console or Console(stderr=True, highlight=False)
        self.taken: dict[str, list[float]] = defaultdict(list)
        self.finished = 0
        self.began = self.since = time.monotonic()
        self.status = self.console.status(title) if self.console.is_terminal else None
        if self.status:
            self.status.start()

    def doing(self, what: str) -> None:
        """Say what begins now."""
        self.since = time.monotonic()
        line = f"{self.title} {self.finished}/{self.steps}: {what}{self._left_text()}"
        if self.status:
            self.status.update(line)
        else:
            self.console.print(line, markup=False, soft_wrap=True)

    def done(self, kind: str) -> None:
        """One step of this kind has ended."""
        self.taken[kind].append(time.monotonic() - self.since)
        self.finished += 1

    def close(self) -> None:
        if self.status:
            self.status.stop()
        self.console.print(f"{self.title}: {time.monotonic() - self.began:.0f} s", markup=False)

    def left(self) -> float | None:
        """Seconds to come, or None where nothing is known yet."""
        if not self.finished:
            return self.expected or None
        mean = sum(map(sum, self.taken.values())) / self.finished
        return mean * max(0, self.steps - self.finished)

    def _left_text(self) -> str:
        left = self.left()
        return "" if left is None else f" (about {int(left) // 60}:{int(left) % 60:02} left)"

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        self.close()
