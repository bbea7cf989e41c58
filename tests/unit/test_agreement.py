"""Krippendorff's alpha against published values, its limits, and a slow reference by the definition."""

from collections import Counter
from itertools import permutations
from random import Random

import pytest

from scale_rlhf.data.agreement import alpha_of_counts, krippendorff_alpha

OBSERVERS = ("1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 .")


@pytest.mark.parametrize(("level", "published"), [("ordinal", 0.815), ("interval", 0.849)])
def test_the_published_example(level, published):
    """Krippendorff 2011, example C: four observers, twelve units, missing data."""
    table = [[None if value == "." else int(value) for value in line.split()] for line in OBSERVERS]
    assert krippendorff_alpha(list(zip(*table, strict=True)), level) == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("level", ["ordinal", "interval"])
def test_limits(level):
    assert krippendorff_alpha([[1, 1], [5, 5], [3, 3]], level) == 1.0
    assert krippendorff_alpha([[2, 2], [2, 2]], level) == 1.0
    assert krippendorff_alpha([[0, 5], [5, 0]], level) < 0
    with pytest.raises(ValueError, match="two raters"):
        krippendorff_alpha([[1, None], [None, 2]], level)


def test_ordinal_sees_the_order_alone():
    units = [[1, 2], [2, 2], [3, 5], [5, 4], [1, 1]]
    stretched = [[10**value for value in unit] for unit in units]
    assert krippendorff_alpha(stretched, "ordinal") == pytest.approx(krippendorff_alpha(units, "ordinal"))
    assert krippendorff_alpha(stretched) != pytest.approx(krippendorff_alpha(units), abs=0.01)


def by_definition(units: list[list[int]], level: str) -> float:
    """Coincidences and the metrics as Krippendorff writes them."""
    units = [unit for unit in units if len(unit) > 1]
    coincidences: Counter = Counter()
    for unit in units:
        for i, j in permutations(range(len(unit)), 2):
            coincidences[unit[i], unit[j]] += 1 / (len(unit) - 1)
    marginal = Counter(value for unit in units for value in unit)
    total = sum(marginal.values())

    def metric(c, k):
        if level == "interval":
            return (c - k) ** 2
        between = sum(marginal[g] for g in marginal if min(c, k) <= g <= max(c, k))
        return (between - (marginal[c] + marginal[k]) / 2) ** 2

    observed = sum(count * metric(c, k) for (c, k), count in coincidences.items())
    expected = sum(marginal[c] * marginal[k] * metric(c, k) for c in marginal for k in marginal)
    return 1 - (total - 1) * observed / expected


@pytest.mark.parametrize("level", ["ordinal", "interval"])
@pytest.mark.parametrize("seed", range(5))
def test_against_the_definition(level, seed):
    random = Random(seed)
    units = [[random.randint(0, 5) for _ in range(random.randint(1, 4))] for _ in range(30)]
    assert krippendorff_alpha(units, level) == pytest.approx(by_definition(units, level))
    assert alpha_of_counts(Counter(map(tuple, units)), level) == pytest.approx(by_definition(units, level))
