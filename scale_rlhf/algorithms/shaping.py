"""What is done to scores before they are learned from: normalised, clipped, mixed, and less for what is too long."""

from collections.abc import Sequence

import torch


def reference_moments(scores: torch.Tensor) -> tuple[float, float]:
    """(μ, σ) of the scores of reference answers [n], σ unbiased: what `normalised` takes off and divides by.

    Stiennon et al. 2020 (appendix C.2) shift a reward model so that reference summaries score 0. Raises ValueError where the
    scores do not differ.
    """
    mean, deviation = float(scores.double().mean()), float(scores.double().std(correction=1)) if len(scores) > 1 else 0.0
    if not deviation > 1e-9 * max(1.0, abs(mean)):
        raise ValueError(f"expected scores that differ; found {len(scores)}, all of them {mean:g}")
    return mean, deviation


def normalised(scores: torch.Tensor, mean: float, deviation: float) -> torch.Tensor:
    """(r − μ)/σ: 0 is as good as a reference answer, whatever the scale of the source. [batch] -> [batch]."""
    return (scores - mean) / deviation


def clipped(scores: torch.Tensor, low: float, high: float) -> tuple[torch.Tensor, torch.Tensor]:
    """min(max(r, low), high), and where that changed it (bool): [batch] -> [batch], [batch]."""
    held = scores.clamp(low, high)
    return held, held != scores


def mixed(scores: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Σ_i w_i·r_i over the sources i: of [batch] each -> [batch]. Raises ValueError where weights are not one a source."""
    return sum((weight * one for one, weight in zip(scores, weights, strict=True)), torch.zeros_like(scores[0]))


def overlong_penalty(lengths: torch.Tensor, *, limit: int, buffer: int) -> torch.Tensor:
    """DAPO's soft overlong punishment (Yu et al. 2025, equation 13): [batch] tokens -> [batch] in [−1, 0].

        0                             for |y| ≤ L_max − L_cache
        ((L_max − L_cache) − |y|)/L_cache    up to L_max
        −1                            beyond

    limit: L_max, buffer: L_cache, in tokens.
    """
    return ((limit - buffer - lengths.double()) / buffer).clamp(-1.0, 0.0)
