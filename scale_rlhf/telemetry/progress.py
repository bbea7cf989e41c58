"""Progress with time left: a bar on a terminal, and in a log a line every few seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 5.0


class StageProgress(Protocol):
    def advance(self, n: float = 1, text: str = "") -> None:
        """`n` more of the total are done; `text`, such as a loss, is shown beside the numbers until the next."""

    def tell(self, line: str) -> None:
        """A line of its own, such as a warning."""


@contextmanager
def stage_progress(description: str, total: int, console: Console | None = None) -> Iterator[StageProgress]:
    """Show that `description` is under way, how much of `total` is done, and how long the rest will take.

    console: where to; by default standard error. Not a terminal: plain lines, so that logs stay readable.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        lines = PlainLines(description, total, lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
        try:
            yield lines
        finally:
            lines.end()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress, progress.add_task(description, total=total, text=""))


class _Bar:
    def __init__(self, progress: Progress, task):
        self._progress, self._task = progress, task

    def advance(self, n: float = 1, text: str = "") -> None:
        self._progress.update(self._task, advance=n, text=text)

    def tell(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


class PlainLines:
    """Writes `description 12/100, 0:40 gone, about 4:53 left, TEXT`: at the start, every few seconds, and at the end.

    write: takes a line. clock: seconds, any origin.
    """

    def __init__(self, description: str, total: int, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self.description, self.total, self._write, self._clock = description, total, write, clock
        self._done, self._text, self._told = 0.0, "", None
        self._first: tuple[float, float] | None = (
            None  # when, and how much: what came before was start-up, and says nothing of the rate
        )
        self._began = self._last = clock()
        self._tell()

    def advance(self, n: float = 1, text: str = "") -> None:
        self._done, self._text = self._done + n, text
        self._first = self._first or (self._clock(), self._done)
        if self._clock() - self._last >= SECONDS_BETWEEN_LINES:
            self._tell()

    def tell(self, line: str) -> None:
        self._write(line)

    def end(self) -> None:
        """The last line, unless it was written already."""
        if (self._done, self._text) != self._told:
            self._tell()

    def _tell(self) -> None:
        self._last, self._told = self._clock(), (self._done, self._text)
        parts = [f"{self.description} {self._done:g}/{self.total:g}"]
        gone = self._last - self._began
        if self._done:
            parts.append(f"{clock_time(gone)} gone")
        if self._first and self._first[1] < self._done < self.total:
            rate = (self._done - self._first[1]) / max(self._last - self._first[0], 1e-9)
            parts.append(f"about {clock_time((self.total - self._done) / rate)} left")
        self._write(", ".join(parts + ([self._text] if self._text else [])))


def clock_time(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
