"""Simulated raters."""

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
