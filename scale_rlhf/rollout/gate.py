"""Who decodes: a gate that samples pass on their way into vLLM, and a clock that knows when any of them was decoded."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from scale_rlhf.telemetry.spans import Spans


class Gate:
    """At most `places` samples inside at once, in the order of their coming. Closed, nobody enters; those inside may leave."""

    def __init__(self, places: float):
        """places: math.inf for no bound."""
        self.places, self.inside = places, 0
        self._open = True
        self._queue: deque[asyncio.Future] = deque()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @asynccontextmanager
    async def enter(self, *, first: bool = False) -> AsyncIterator[None]:
        """Wait until the gate is open and a place is free; hold the place inside the block. first: before those who wait."""
        turn = asyncio.get_running_loop().create_future()
        (self._queue.appendleft if first else self._queue.append)(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            else:
                self._queue.remove(turn)
            raise
        try:
            yield
        finally:
            self._leave()

    async def empty(self) -> None:
        """Close, and wait until all inside have left."""
        self._open = False
        await self._empty.wait()

    def open(self) -> None:
        """Let samples in again."""
        self._open = True
        self._admit()

    def _admit(self) -> None:
        while self._open and self._queue and self.inside < self.places:
            self.inside += 1
            self._empty.clear()
            self._queue.popleft().set_result(None)

    def _leave(self) -> None:
        self.inside -= 1
        self._admit()
        if self.inside == 0:
            self._empty.set()


class DecodeClock:
    """Records a "decode" span whenever some sample is running and nothing is frozen."""

    def __init__(self, spans: Spans, clock: Callable[[], float] = time.time):
        self.spans, self.clock = spans, clock
        self.running, self.frozen = 0, False
        self._since: float | None = None
        self._busy = 0.0

    def enter(self) -> None:
        self.running += 1
        self._look()

    def leave(self) -> None:
        self.running -= 1
        self._look()

    def freeze(self) -> None:
        self.frozen = True
        self._look()

    def thaw(self) -> None:
        self.frozen = False
        self._look()

    def cut(self) -> None:
        """End the span that runs and begin another, so that what was recorded reaches to now."""
        if self._since is not None:
            self._end()
            self._look()

    def take_busy(self) -> float:
        """Seconds of decoding since the last call."""
        self.cut()
        busy, self._busy = self._busy, 0.0
        return busy

    def _look(self) -> None:
        decoding = self.running > 0 and not self.frozen
        if decoding and self._since is None:
            self._since = self.clock()
        elif not decoding and self._since is not None:
            self._end()

    def _end(self) -> None:
        now = self.clock()
        self.spans.add("decode", self._since, now)
        self._busy += now - self._since
        self._since = None
