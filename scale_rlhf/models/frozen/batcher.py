"""What is computed together. Pure: no Ray, no model, a clock that is handed in.

A request is a list of samples. Its samples join those of other requests in one batch of at most `budget` tokens,
which leaves when it is full or when its oldest sample has waited `max_wait` seconds. A *fixed* request is cut by
`packing.cut` in its own order and shares no batch, so that its results do not depend on what else is in flight.

Example, budget 10: add([4, 4]), add([5], fixed), add([4]) → [4, 4] is closed by the last 4, which it has no room for;
`take` gives [5] (fixed: ready when it came), [4, 4], and `max_wait` later [4].
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from scale_rlhf.experience.packing import cut


class Item(NamedTuple):
    """One sample of one request."""

    ticket: int  # the request
    place: int  # the sample in it


@dataclass
class Batch:
    """One forward."""

    items: list[Item] = field(default_factory=list)
    tokens: int = 0


class Batcher:
    """Requests in, batches out; first come, first served, but for the wait of an open batch.

    budget: tokens of a batch; a longer sample goes alone. max_wait: seconds that a batch stays open.
    capacity: samples that may wait; `has_room` says whether a request may come in. clock: seconds, any origin.
    """

    def __init__(self, budget: int, max_wait: float, clock: Callable[[], float], capacity: int = 4096):
        self.budget, self.max_wait, self.clock, self.capacity = budget, max_wait, clock, capacity
        self.waiting = 0  # samples that no batch taken so far holds
        self._ready: deque[Batch] = deque()
        self._open, self._opened = Batch(), 0.0
        self._tickets = 0

    def has_room(self, samples: int) -> bool:
        """Whether a request of so many samples fits; one larger than the whole queue does when nothing waits."""
        return self.waiting == 0 or self.waiting + samples <= self.capacity

    def add(self, lengths: Sequence[int], *, fixed: bool) -> int:
        """Queue a request. lengths: tokens of each of its samples. Returns its ticket."""
        self._tickets += 1
        self.waiting += len(lengths)
        items = [Item(self._tickets, place) for place in range(len(lengths))]
        if fixed:
            for places in cut(lengths, self.budget):
                self._ready.append(Batch([items[p] for p in places], sum(lengths[p] for p in places)))
        else:
            for item, length in zip(items, lengths, strict=True):
                self._join(item, length)
        return self._tickets

    def take(self) -> Batch | None:
        """The next batch that may be computed now, or None."""
        if self._open.items and self._time_left() == 0:
            self._close()
        if not self._ready:
            return None
        batch = self._ready.popleft()
        self.waiting -= len(batch.items)
        return batch

    def wait(self) -> float | None:
        """Seconds until `take` has a batch if nothing else comes: 0 now, None never."""
        if self._ready:
            return 0.0
        return self._time_left() if self._open.items else None

    def _time_left(self) -> float:
        return max(0.0, self._opened + self.max_wait - self.clock())

    def _join(self, item: Item, length: int) -> None:
        if self._open.items and self._open.tokens + length > self.budget:
            self._close()
        if not self._open.items:
            self._opened = self.clock()
        self._open.items.append(item)
        self._open.tokens += length
        if self._open.tokens >= self.budget:
            self._close()

    def _close(self) -> None:
        self._ready.append(self._open)
        self._open = Batch()
