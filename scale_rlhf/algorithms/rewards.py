"""What each token is rewarded for: staying near the reference, and the score at the end."""

import torch

from scale_rlhf.algorithms.kl import kl_estimate
from scale_rlhf.algorithms.masking import visible


def token_rewards(
    logprobs: torch.Tensor, reference_logprobs: torch.Tensor, scores: torch.Tensor, mask: torch.Tensor, *,
    coefficient: float, kind: str = "k1",
) -> torch.Tensor:
    """r_t = −β·KL_t, plus the score at the last response token (Ziegler et al. 2019, equation 2).

    logprobs, reference_logprobs: [batch, tokens], in nats. scores: [batch]. coefficient: β, per nat.
    Returns [batch, tokens], 0 behind the mask; a row without response tokens gets no score.
    Raises ValueError for an unknown kind, or scores of another shape.
    """
    if scores.shape != mask.shape[:-1]:
        raise ValueError(f"scores: expected {[*mask.shape[:-1]]}, found {[*scores.shape]}")
    mask = mask.bool()
    penalty = kl_estimate(visible(logprobs, mask), visible(reference_logprobs, mask), kind)
    return -coefficient * penalty + visible(scores[..., None].to(penalty.dtype), last_token(mask))


def last_token(mask: torch.Tensor) -> torch.Tensor:
    """True at the last True of each row and nowhere else: [batch, tokens] -> [batch, tokens]."""
    after = mask.flip(-1).cumsum(-1).flip(-1)  # masked tokens from here to the end
    return mask & (after == 1)
