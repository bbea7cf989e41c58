"""Which engine takes the next sample: the one with the fewest, at a cost that does not grow with their number."""

import heapq

_OUT = 2

class Balance:
    """Samples that run on each of several engines. Engines that are set aside get some only when all are, and those that
    are out get none.
    """

    def __init__(self, engines: int):
        self.running = [0] * engines
        self._aside = [0] * engines  # 0: it serves; 1: it takes a version; 2: it is out
        self._heap = [self._state(place) for place in range(engines)]

    def take(self) -> int | None:
        """The engine for one more sample; among equals the first. None where all are out."""
        while self._heap[0] != self._state(self._heap[0][2]):
            heapq.heappop(self._heap)  # what it was, not what it is
        aside, _, place = self._heap[0]
        if aside == _OUT:
            return None
        self.running[place] += 1
        self._push(place)
        return place

    def done(self, place: int) -> None:
        """A sample left that engine."""
        self.running[place] -= 1
        self._push(place)

    def set_aside(self, place: int, aside: bool) -> None:
        """While an engine takes a new version, others are better."""
        if self._aside[place] != _OUT:
            self._aside[place] = int(aside)
            self._push(place)

    def set_out(self, place: int, out: bool) -> None:
        """An engine is dead; or serves again."""
        self._aside[place] = _OUT if out else 0
        self._push(place)

    def _state(self, place: int) -> tuple[int, int, int]:
        return self._aside[place], self.running[place], place

    def _push(self, place: int) -> None:
        # Every engine's present state is in the heap; older ones are dropped when they come up, or all at once.
        heapq.heappush(self._heap, self._state(place))
        if len(self._heap) > 4 * len(self.running) + 64:
            self._heap = [self._state(each) for each in range(len(self.running))]
            heapq.heapify(self._heap)
