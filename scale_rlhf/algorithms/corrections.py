"""Weights that correct for data of another policy than the one that learns."""

import torch

from scale_rlhf.algorithms.masking import visible


def truncated_importance_weights(
    logprobs: torch.Tensor, behaviour_logprobs: torch.Tensor, mask: torch.Tensor, *, cap: float,
) -> torch.Tensor:
    """min(π/π_behaviour, cap) at each response token, 0 behind the mask; no gradient goes through it.

    All are [batch, tokens]. The bias of the cap buys a bounded variance (Ionides 2008; IMPALA, 2018).
    Raises ValueError where the cap is not above 0.
    """
    if not cap > 0:
        raise ValueError(f"cap: expected a number above 0, found {cap}")
    mask = mask.bool()
    difference = visible(logprobs.detach(), mask) - visible(behaviour_logprobs.detach(), mask)
    return visible(difference.exp().clamp(max=cap), mask)
