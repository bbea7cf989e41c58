"""Krippendorff's alpha: how far raters agree beyond chance. 1 is agreement, 0 what chance would give, below 0 they oppose."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate, combinations
from typing import Literal

Level = Literal["ordinal", "interval"]
Unit = tuple[float, ...]  # what the raters said of one thing


def krippendorff_alpha(units: Iterable[Iterable[float | None]], level: Level = "interval") -> float:
    """Alpha of one list of ratings a unit (None: this rater did not rate it); see `alpha_of_counts`."""
    return alpha_of_counts(Counter(tuple(value for value in unit if value is not None) for unit in units), level)


def alpha_of_counts(units: Mapping[Unit, int], level: Level = "interval") -> float:
    """1 − observed / expected disagreement, from how often each unit occurs, so that it can be counted as a file is read.

    Disagreement is the mean squared difference over pairs of ratings: of one unit observed, of any units expected
    (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability"). level: "interval" takes the ratings as they are,
    "ordinal" their order alone, as mean ranks, to whose differences Krippendorff's ordinal metric comes down.
    Raises ValueError where no unit has two ratings.
    """
    units = {unit: count for unit, count in units.items() if len(unit) > 1}
    values: Counter[float] = Counter()
    for unit, count in units.items():
        for value in unit:
            values[value] += count
    total = values.total()
    if not total:
        raise ValueError("Krippendorff's alpha needs at least one unit that two raters rated")
    scale = _mean_ranks(values) if level == "ordinal" else {value: float(value) for value in values}
    observed = sum(count * _squared_differences(scale, unit) / (len(unit) - 1) for unit, count in units.items()) / total
    mean = sum(count * scale[value] for value, count in values.items()) / total
    # over all ordered pairs, Σ (a − b)² = 2·n·Σ (a − mean)²
    expected = 2 * sum(count * (scale[value] - mean) ** 2 for value, count in values.items()) / (total - 1)
    return 1.0 if expected == 0 else 1.0 - observed / expected


def _squared_differences(scale: Mapping[float, float], unit: Unit) -> float:
    """Σ over ordered pairs of (a − b)²."""
    return 2 * sum((scale[a] - scale[b]) ** 2 for a, b in combinations(unit, 2))


def _mean_ranks(values: Counter[float]) -> dict[float, float]:
    """The middle of the places that equal values take in the order of all."""
    ordered = sorted(values)
    ends = accumulate(values[value] for value in ordered)
    return {value: end - values[value] / 2 for value, end in zip(ordered, ends, strict=True)}
