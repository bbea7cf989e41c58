"""GSPO: the ratio of whole responses, not of tokens (Zheng et al. 2025, "Group Sequence Policy Optimization")."""

import torch

from scale_rlhf.algorithms.losses import log_ratio
from scale_rlhf.algorithms.masking import divided_sum, visible


def gspo_policy_loss(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, *,
    clip_low: float, clip_high: float, denominator: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """max(−A·s, −A·clip(s, 1 − ε_low, 1 + ε_high)), s = (π(y)/π_old(y))^(1/|y|) (equations 5 and 7).

    All tensors are [batch, tokens]; a row is a response, and none may be cut over two rows. It is the paper's form by tokens
    (GSPO-token, equations 13 and 14), s_t = sg[s]·π_t/sg[π_t]: with one advantage a response its value and gradient are those
    of GSPO, and importance weights may differ by token. The paper's ranges are small, ε of 3e-4 and 4e-4, as s is a mean,
    and its loss is a mean over responses (`aggregation.token_weights`, "sequence_mean").
    Raises ValueError for a denominator not above 0.
    """
    mask = mask.bool()
    own, advantages = visible(logprobs, mask), visible(advantages.detach(), mask)
    ratio = sequence_ratio(logprobs, old_logprobs, mask) * (own - own.detach()).exp()
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high))
    return divided_sum(loss, mask, denominator)


def gspo_clipped(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, *,
    clip_low: float, clip_high: float,
) -> torch.Tensor:
    """Tokens of responses whose clipped term decides the loss: bool [batch, tokens], False behind the mask."""
    mask = mask.bool()
    ratio, advantages = sequence_ratio(logprobs, old_logprobs, mask), visible(advantages, mask)
    return ((advantages > 0) & (ratio > 1 + clip_high) | (advantages < 0) & (ratio < 1 - clip_low)) & mask


def sequence_ratio(logprobs: torch.Tensor, old_logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """s of each response, exp(mean over its tokens of log π − log π_old): [batch, 1], without a gradient."""
    difference = log_ratio(logprobs.detach(), old_logprobs, mask.bool())
    return (difference.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)).exp()
