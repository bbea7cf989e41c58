"""CISPO: the importance weight is clipped, and every token keeps its gradient (MiniMax 2025, "MiniMax-M1", section 3.1)."""

import torch

from scale_rlhf.algorithms.losses import log_ratio
from scale_rlhf.algorithms.masking import divided_sum, visible


def cispo_policy_loss(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, *,
    clip_low: float, clip_high: float, denominator: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """−sg[clip(r, 1 − ε_low, 1 + ε_high)]·A·log π, r = π/π_old (equations 4 and 5).

    All tensors are [batch, tokens]. PPO's clip stops the gradient of a token that has moved far, a rare and decisive one
    among them; here its weight is bounded instead. The paper leaves the lower side open (ε_low near 1).
    Raises ValueError for a denominator not above 0.
    """
    mask = mask.bool()
    weight = log_ratio(logprobs.detach(), old_logprobs, mask).exp().clamp(1 - clip_low, 1 + clip_high)
    loss = -weight * visible(advantages.detach(), mask) * visible(logprobs, mask)
    return divided_sum(loss, mask, denominator)


def cispo_clipped(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, *,
    clip_low: float, clip_high: float,
) -> torch.Tensor:
    """Tokens whose weight was cut, whatever their advantage: bool [batch, tokens], False behind the mask."""
    mask = mask.bool()
    ratio = log_ratio(logprobs.detach(), old_logprobs, mask).exp()
    return ((ratio < 1 - clip_low) | (ratio > 1 + clip_high)) & mask
