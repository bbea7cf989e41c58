"""Over-optimisation: where the reward that is trained on and a judge that is not go different ways.

Gao, Schulman and Hilton (2022, "Scaling laws for reward model overoptimization") draw both over d = √KL(π ‖ π_ref): the reward
that is optimised goes on rising, the true one rises, has a peak and falls. Here the peak is found without a law for its shape.
Numbers of one run, in plain Python.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

FEWEST = 8  # points from which on a peak can be told from noise
DEVIATIONS = 3.5  # standard errors; of 300 level curves of 8 noisy points 10 seem to fall past them, of 20 points 4, of 40 one


@dataclass(frozen=True)
class Point:
    """One version of the policy. kl: nats a response. reward: what is trained on. score: the judge's."""

    version: int
    kl: float
    reward: float
    score: float

    @property
    def distance(self) -> float:
        """√KL; an estimate below 0 counts as 0."""
        return math.sqrt(max(self.kl, 0.0))


@dataclass(frozen=True)
class Parting:
    """At `best` the judge's score was highest, from `seen` on reward and judge have moved apart by more than noise."""

    best: Point  # as measured
    seen: Point
    reward_change: float  # of the smoothed reward, from the best to the last point
    score_change: float
    noise: float  # standard deviation of a single score


def parting(points: Sequence[Point]) -> Parting | None:
    """Where they part; None where they do not, or where there are fewer than FEWEST points.

    Both curves, by version, are smoothed by a centred mean over an eighth of the points (at least 3). Their noise is taken from
    their second differences, which a trend hardly moves. The judge's best is the highest smoothed score; they part there if, from
    some later version to the end of the run, every smoothed score is lower by more than DEVIATIONS standard errors of the
    difference, while the smoothed reward at that version is higher than at the best by more than as many of its own.
    """
    points = sorted(points, key=lambda point: point.version)
    if len(points) < FEWEST:
        return None
    half = max(1, len(points) // 16)
    scores, rewards = _Curve([point.score for point in points], half), _Curve([point.reward for point in points], half)
    best = max(range(len(points)), key=scores.smooth.__getitem__)
    last = len(points) - 1
    fallen = last + 1  # from here to the end all scores are lower
    while fallen - 1 > best and scores.change(fallen - 1, best) > DEVIATIONS * scores.error(fallen - 1, best):
        fallen -= 1
    for seen in range(fallen, last - half + 1):  # later, and nearly all of its mean would be the last few points'
        if rewards.change(best, seen) > DEVIATIONS * rewards.error(best, seen):
            changes = rewards.change(best, last), scores.change(best, last)
            return Parting(points[best], points[seen], *changes, scores.noise)
    return None


def frontier(points: Sequence[Point]) -> list[Point]:
    """The Pareto front of little KL and a high score, by rising KL: nobody else has a score as high at a KL as low."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.kl, -point.score)):
        if not front or point.score > front[-1].score:
            front.append(point)
    return front


def normalised(values: Sequence[float]) -> list[float]:
    """Minus the first, over the largest distance from it: curves of different scales on one pair of axes."""
    moved = [value - values[0] for value in values]
    largest = max(map(abs, moved), default=0.0)
    return [value / largest for value in moved] if largest else moved


def noise(values: Sequence[float]) -> float:
    """Standard deviation of independent noise on a curve whose slope changes little from one value to the next.

    A second difference a − 2b + c of noise σ has the variance 6σ². Their median, not their mean: a kink is one of them.
    """
    differences = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return 1.4826 * median(differences) / math.sqrt(6.0) if differences else 0.0


def smoothed(values: Sequence[float], half: int) -> list[float]:
    """Centred means over 2·half + 1 values, fewer at the ends."""
    windows = [values[max(0, place - half) : place + half + 1] for place in range(len(values))]
    return [math.fsum(window) / len(window) for window in windows]


class _Curve:
    """Values smoothed, and how sure a difference of two of them is."""

    def __init__(self, values: Sequence[float], half: int):
        self.noise, self.smooth = noise(values), smoothed(values, half)
        self._counts = [min(half, place) + min(half, len(values) - 1 - place) + 1 for place in range(len(values))]

    def change(self, start: int, end: int) -> float:
        return self.smooth[end] - self.smooth[start]

    def error(self, start: int, end: int) -> float:
        """Standard error of `change`."""
        return self.noise * math.sqrt(1 / self._counts[start] + 1 / self._counts[end])
