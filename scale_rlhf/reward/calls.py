"""Counts of the calls of a function or a service, in the names that the model servers use."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from scale_rlhf.telemetry.spans import Span, Spans


class Calls:
    """Of one role. `with calls.one(samples):` around each call."""

    def __init__(self) -> None:
        self.spans = Spans()
        self._clear()

    @contextmanager
    def one(self, samples: int) -> Iterator[None]:
        """Count a call of so many samples, if it succeeds."""
        began = time.monotonic()
        if not self._waiting:
            self._busy_since = began
        self._waiting += samples
        self._waiting_max = max(self._waiting_max, self._waiting)
        try:
            yield
        finally:
            self._waiting -= samples
            if not self._waiting:
                self._note_busy()
        seconds = time.monotonic() - began
        self._samples += samples
        self._calls += 1
        self._seconds += seconds
        self._longest = max(self._longest, seconds)

    def failed(self, *, final: bool) -> None:
        """A try failed; final: it was the last of its call."""
        self._failed += 1
        self._given_up += final

    def take_spans(self) -> list[Span]:
        """Since the last time; what is under way is in them up to now."""
        self._cut()
        return self.spans.take()

    def take(self) -> dict[str, float]:
        """Since the last take; times in seconds, waits included. Busy is the time in which any call was under way."""
        self._cut()
        numbers = {
            "samples": self._samples,
            "busy_seconds": self._busy,
            "latency_mean_seconds": self._seconds / max(self._calls, 1),
            "latency_max_seconds": self._longest,
            "queue_max_samples": self._waiting_max,
            "failed_tries": self._failed,
            "failed_calls": self._given_up,
        }
        self._clear(self._waiting)
        return numbers

    def _cut(self) -> None:
        """A reward that never rests is busy all the time, and not only once it does."""
        if self._waiting:
            self._note_busy()
            self._busy_since = time.monotonic()

    def _note_busy(self) -> None:
        seconds = time.monotonic() - self._busy_since
        self._busy += seconds
        self.spans.add("score", time.time() - seconds)

    def _clear(self, waiting: int = 0) -> None:
        self._samples = self._calls = self._failed = self._given_up = 0
        self._seconds = self._longest = self._busy = 0.0
        self._waiting = self._waiting_max = waiting
