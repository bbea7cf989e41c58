"""How sure a number is: intervals over prompts, wins with ties, judges that are asked in both orders. Plain numbers, no torch.

An interval holds the number that infinitely many prompts of the same kind would give in CONFIDENCE of all evaluations. What it
does not cover: other seeds of the training, and prompts of another kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000
_AT_ONCE = 2_000_000  # drawn numbers that are held in memory


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, and the prompts that it is of. low, high: None where one prompt says nothing of the others."""

    value: float
    low: float | None
    high: float | None
    count: int


def mean(values: Sequence[float]) -> Estimate | None:
    """The mean, with the percentile bootstrap over the values (Efron 1979; Koehn 2004 in this field). None of no values."""
    if not len(values):
        return None
    low, high = bootstrap(values) if len(values) > 1 else (None, None)
    return Estimate(fsum(values) / len(values), low, high, len(values))


def share(values: Sequence[float]) -> Estimate | None:
    """The mean of values in [0, 1], with Wilson's interval. None of no values.

    Of zeros and ones it is exact in the way that Wilson's is. Values between (a tie is ½) vary less than zeros and ones of the
    same mean, so that the interval is then too wide, never too narrow. Raises ValueError for a value outside [0, 1].
    """
    if not len(values):
        return None
    if outside := [value for value in values if not 0 <= value <= 1]:
        raise ValueError(f"expected numbers from 0 to 1, found {outside[0]}")
    total = fsum(values)
    low, high = wilson(total, len(values)) if len(values) > 1 else (None, None)
    return Estimate(total / len(values), low, high, len(values))


def wilson(successes: float, count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a proportion (1927), the method that Newcombe (1998) recommends; never outside [0, 1]."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / count
    centre = p + z * z / (2 * count)
    half = z * sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def bootstrap(
    values: Sequence[float], confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean: of `resamples` draws of as many values, with replacement. The same seed, the same draws.

    Where all values are alike it has no width, which says that the prompts were too easy or too few, not that all is known.
    """
    numbers, random = np.asarray(values, np.float64), np.random.default_rng(seed)
    part = max(1, _AT_ONCE // len(numbers))
    means = [numbers[random.integers(0, len(numbers), (min(part, resamples - start), len(numbers)))].mean(1)
             for start in range(0, resamples, part)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def wins(scores: Sequence[float], others: Sequence[float]) -> list[float]:
    """By prompt: 1 where the first score is the higher, ½ where they are equal, else 0."""
    return [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(scores, others, strict=True)]


def both_orders(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """By prompt, how far a model is preferred when the order in which the answers are shown is evened out.

    first: preference in [0, 1] for the answer that is shown first, the model's being first; second: the same, the model's being
    second. A judge that always prefers the first answer gives ½ (Zheng et al. 2023 count such a pair as a tie).
    """
    return [(a + 1.0 - b) / 2 for a, b in zip(first, second, strict=True)]


def position_bias(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """By prompt, preference for the first place as such, from −½ to ½: 0 of a judge to whom the order is nothing."""
    return [(a + b - 1.0) / 2 for a, b in zip(first, second, strict=True)]


def agreement(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """By prompt, 1 where both orders name the same answer (or both a tie), else 0: Zheng et al.'s consistency."""
    return [float(_side(a) == _side(1.0 - b)) for a, b in zip(first, second, strict=True)]


def _side(preference: float) -> int:
    return (preference > 0.5) - (preference < 0.5)
