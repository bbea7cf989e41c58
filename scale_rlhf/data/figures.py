"""What is counted as rows go by: lists of lines that are bounded, ratings and how far raters agree, lengths and their bias."""

import heapq
from collections import Counter
from dataclasses import dataclass, field

from scale_rlhf.data.agreement import Unit, alpha_of_counts


class Listed:
    """How many there were, and the first lines of them."""

    def __init__(self, keep: int):
        self.count, self.lines, self._keep = 0, [], keep

    def add(self, line: str) -> None:
        self.count += 1
        if len(self.lines) < self._keep:
            self.lines.append(line)


class Largest:
    """The lines with the largest sizes, the first of equal ones before the others."""

    def __init__(self, keep: int):
        self._heap: list[tuple[float, int, str]] = []
        self._keep, self._seen = keep, 0

    def add(self, size: float, line: str) -> None:
        self._seen += 1
        entry = (size, -self._seen, line)
        if len(self._heap) < self._keep:
            heapq.heappush(self._heap, entry)
        elif self._keep and entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    @property
    def lines(self) -> list[str]:
        return [line for _, _, line in sorted(self._heap, reverse=True)]


@dataclass
class Spread:
    """Numbers: how many, their mean and their ends."""

    count: int = 0
    total: float = 0.0
    lowest: float = float("inf")
    highest: float = float("-inf")

    def add(self, number: float) -> None:
        self.count += 1
        self.total += number
        self.lowest, self.highest = min(self.lowest, number), max(self.highest, number)

    @property
    def mean(self) -> float:
        return self.total / self.count


class Ratings:
    """The ratings of one aspect, and how far those of the same response agree."""

    def __init__(self, keep: int):
        self.numbers, self.differ = Spread(), Largest(keep)
        self._units: Counter[Unit] = Counter()

    def add(self, numbers: list[float], line: str) -> None:
        """What the raters said of one response; line: where, and of which."""
        for number in numbers:
            self.numbers.add(number)
        self._units[tuple(sorted(numbers))] += 1
        if len(numbers) > 1 and max(numbers) > min(numbers):
            self.differ.add(max(numbers) - min(numbers), f"{line}: {', '.join(f'{number:g}' for number in numbers)}")

    @property
    def raters(self) -> tuple[int, int]:
        """Fewest and most for one response."""
        counts = {len(unit) for unit in self._units}
        return min(counts), max(counts)

    def alpha(self, level: str) -> float | None:
        """Krippendorff's; None where nothing was rated twice."""
        return alpha_of_counts(self._units, level) if self.raters[1] > 1 else None


@dataclass
class LengthBias:
    """How often the longer of two compared responses is the preferred one, in characters."""

    far: Largest
    longer: int = 0
    shorter: int = 0
    equal: int = 0
    more: Spread = field(default_factory=Spread)  # by how many characters the preferred is longer

    def add(self, better: str, worse: str, at: str) -> None:
        """One pair. Of one in which the longer is preferred the place is remembered if it is much longer."""
        more = len(better) - len(worse)
        self.more.add(more)
        if more > 0:
            self.longer += 1
            self.far.add(more, f"{at}: the preferred of {len(better)} characters, the other of {len(worse)}")
        elif more < 0:
            self.shorter += 1
        else:
            self.equal += 1

    @property
    def share(self) -> float | None:
        """Of pairs that differ in length, those whose longer response is preferred; 0.5 is no bias."""
        unequal = self.longer + self.shorter
        return self.longer / unequal if unequal else None
