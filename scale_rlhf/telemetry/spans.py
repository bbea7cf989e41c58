"""What a process is busy with: each actor records spans, the controller collects them for metrics and the timeline."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple


class Span(NamedTuple):
    """One piece of work. Times are seconds since the epoch, so that processes share them."""

    name: str
    start: float
    end: float
    details: dict[str, Any] = {}

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Spans:
    """Spans of one process since the last `take`. Not locked: one thread records."""

    def __init__(self, clock: Callable[[], float] = time.time):
        self.clock = clock
        self._done: list[Span] = []

    @contextmanager
    def span(self, name: str, **details: Any) -> Iterator[None]:
        """Record the block, also when it fails. details: shown in the timeline."""
        started = self.clock()
        try:
            yield
        finally:
            self.add(name, started, **details)

    def add(self, name: str, start: float, end: float | None = None, **details: Any) -> None:
        """Record a span that ended now, or at `end`."""
        self._done.append(Span(name, start, self.clock() if end is None else end, details))

    def take(self) -> list[Span]:
        """What was recorded since the last call."""
        done, self._done = self._done, []
        return done


def recorded(name: str) -> Callable:
    """Decorator for methods of an object that has `spans`: each call is a span of that name."""

    def decorate(method: Callable) -> Callable:
        @wraps(method)
        def timed(self, *arguments, **named):
            with self.spans.span(name):
                return method(self, *arguments, **named)

        return timed

    return decorate


def busy(spans: list[Span], start: float, end: float) -> float:
    """Seconds of [start, end] in which at least one span ran."""
    total, reached = 0.0, start
    for span in sorted(spans, key=lambda span: span.start):
        begin, finish = max(span.start, reached), min(span.end, end)
        if finish > begin:
            total += finish - begin
            reached = finish
    return total
