"""Several data sets as one, in which each has the share that its weight says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset


def shares(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Rows to take of each data set: as many in all as there are rows, by weight, rounded so that none is lost.

    sizes: rows of each. weights: above 0; their sum does not matter.
    """
    exact = np.asarray(weights, np.float64) / sum(weights) * sum(sizes)
    counts = np.floor(exact).astype(int)
    short = sum(sizes) - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:short]] += 1
    return counts.tolist()


def mixed(parts: Sequence[Dataset], weights: Sequence[float], seed: int) -> Dataset:
    """The rows of all parts, each in its share. Which rows, and how often, follows from `seed` alone.

    A share below the part's size is a random part of it; one above is every row the same number of times, and the rest drawn
    at random without repetition. Columns must agree.
    """
    from datasets import concatenate_datasets

    taken = []
    for place, (part, count) in enumerate(zip(parts, shares([len(part) for part in parts], weights), strict=True)):
        random = np.random.default_rng([seed, place])
        whole, rest = divmod(count, len(part))
        rows = np.concatenate([np.tile(np.arange(len(part)), whole), random.permutation(len(part))[:rest]])
        taken.append(part.select(np.sort(rows)))
    return concatenate_datasets(taken)
