"""Simulated raters, and Krippendorff's alpha, which says how far raters agree beyond chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Rater:
    """Sees a quality of 0 to 5 through a leaning, noise, and now and then no attention at all."""

    leaning: float
    noise: float
    slip: float

    def rate(self, quality: int, random: Random) -> int:
        """A rating, 0 to 5. With probability `slip` it has nothing to do with the quality."""
        if random.random() < self.slip:
            return random.randint(0, 5)
        return min(5, max(0, round(random.gauss(quality + self.leaning, self.noise))))


RATERS = (
    Rater(leaning=-0.4, noise=0.9, slip=0.10), Rater(leaning=0.0, noise=0.7, slip=0.14), Rater(leaning=0.4, noise=0.9, slip=0.12),
)


def krippendorff_alpha(ratings: Sequence[Sequence[float | None]]) -> float:
    """Krippendorff's alpha for interval data, from rows of one unit each (None: this rater did not rate it).

    1 − observed / expected disagreement, both as mean squared differences over pairable ratings
    (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability"). Raises ValueError where nothing can be paired.
    """
    units = [[value for value in row if value is not None] for row in ratings]
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]
    if not values:
        raise ValueError("Krippendorff's alpha needs at least one unit that two raters rated")
    observed = sum(_squared_differences(unit) / (len(unit) - 1) for unit in units) / len(values)
    expected = _squared_differences(values) / (len(values) * (len(values) - 1))
    return 1.0 if expected == 0 else 1.0 - observed / expected


def _squared_differences(values: Sequence[float]) -> float:
    """Σ over ordered pairs of (a − b)² = 2·(n·Σa² − (Σa)²)."""
    return 2.0 * (len(values) * sum(value * value for value in values) - sum(values) ** 2)
