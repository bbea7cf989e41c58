"""One score from several: the aspects of a model by weight, the members of an ensemble by how far they are trusted."""

from typing import Literal

import torch

Combination = Literal["mean", "worst", "mean_minus_deviation"]


def mixed(aspects: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Σ_a w_a s_a: [..., A] and [A] -> [...]. Weights are taken as they are: they need not add up to 1."""
    return (aspects * weights).sum(-1)


def combined(scores: torch.Tensor, how: Combination, coefficient: float = 1.0) -> torch.Tensor:
    """The members' scores [M, batch] as one, [batch].

    "mean"; "worst", the least (Coste et al. 2023); "mean_minus_deviation", mean − λ·deviation over the members
    (Eisenstein et al. 2023). coefficient: λ. A member's NaN is not hidden. Raises ValueError for another word.
    """
    if how == "mean":
        return scores.mean(0)
    if how == "worst":
        return scores.amin(0)
    if how == "mean_minus_deviation":
        return scores.mean(0) - coefficient * deviation(scores)
    raise ValueError(f"combination {how!r}; expected mean, worst or mean_minus_deviation")


def deviation(scores: torch.Tensor) -> torch.Tensor:
    """Biased standard deviation over the members, [M, batch] -> [batch]: how far they disagree. 0 for one member."""
    return scores.std(0, correction=0)
