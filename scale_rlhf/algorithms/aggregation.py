"""How the losses of tokens become one number: a weight for each token, and one global count that the sum is divided by.

Both follow from a response's own length and from counts of the whole minibatch, so the gradient is the same however the
minibatch is cut over micro-batches and ranks.
"""

import torch

from scale_rlhf.algorithms.masking import visible

KINDS = ("token_mean", "sequence_mean", "constant")


def token_weights(mask: torch.Tensor, kind: str, *, longest: int) -> torch.Tensor:
    """Weight of each response token, float32 [batch, tokens], 0 behind the mask; see `divisor` for what the sum is divided by.

    - "token_mean": 1. Every token counts alike, long responses more (PPO; DAPO, Yu et al. 2025, equation 8).
    - "sequence_mean": 1/|y|. Every response counts alike (GRPO, GSPO).
    - "constant": 1/longest, whatever the length (Dr. GRPO, Liu et al. 2025): neither length nor its neighbours' matter.

    longest: the limit of a response's tokens. Raises ValueError for another kind.
    """
    mask = mask.bool()
    if kind == "token_mean":
        weights = torch.ones(mask.shape, device=mask.device)
    elif kind == "sequence_mean":
        weights = (1 / mask.sum(-1, keepdim=True).clamp(min=1)).expand(mask.shape)
    elif kind == "constant":
        weights = torch.full(mask.shape, 1 / longest, device=mask.device)
    else:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, found {kind!r}")
    return visible(weights, mask)


def divisor(tokens: int, sequences: int, kind: str) -> int:
    """What the weighted sum is divided by, from the counts of the whole minibatch on all ranks."""
    return tokens if kind == "token_mean" else sequences
