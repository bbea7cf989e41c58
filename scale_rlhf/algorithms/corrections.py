"""Weights that correct for data of another policy than the one that learns.

In decoupled PPO (AReaL, Fu et al. 2025, equation 5) the clip is around a *proximal* policy, the learner's before the
update, and each token's loss is weighted by π_proximal/π_behaviour. The three forms here bound that weight's variance.
No gradient goes through any of them. All tensors are [batch, tokens].
"""

import torch

from scale_rlhf.algorithms.masking import visible

MAX_LOG_RATIO = 20.0  # beyond it exp overflows, and 0 · inf is NaN


def truncated_importance_weights(
    logprobs: torch.Tensor, behaviour_logprobs: torch.Tensor, mask: torch.Tensor, *, cap: float,
) -> torch.Tensor:
    """min(π/π_behaviour, cap) at each response token, 0 behind the mask.

    The bias of the cap buys a bounded variance (Ionides 2008; IMPALA, 2018). Raises ValueError where the cap is not above 0.
    """
    if not cap > 0:
        raise ValueError(f"cap: expected a number above 0, found {cap}")
    mask = mask.bool()
    return visible(_log_ratio(logprobs, behaviour_logprobs, mask).exp().clamp(max=cap), mask)


def token_masked_importance_weights(
    logprobs: torch.Tensor, behaviour_logprobs: torch.Tensor, mask: torch.Tensor, *, low: float, high: float,
) -> torch.Tensor:
    """π/π_behaviour where it is within [low, high], 0 elsewhere: such tokens are not learned from (IcePop, 2025).

    Raises ValueError for a band that is not 0 < low < high.
    """
    _check_band(low, high)
    mask = mask.bool()
    ratio = _log_ratio(logprobs, behaviour_logprobs, mask).exp()
    return visible(ratio * ((ratio >= low) & (ratio <= high)), mask)


def sequence_masked_importance_weights(
    logprobs: torch.Tensor, behaviour_logprobs: torch.Tensor, mask: torch.Tensor, *, low: float, high: float, cap: float,
) -> torch.Tensor:
    """Truncated weights, and 0 for a whole response whose mean ratio left the band.

    The mean is geometric, exp(mean over its tokens of log π − log π_behaviour), so that long responses are not
    dropped for being long. Raises ValueError for a band that is not 0 < low < high, or a cap not above 0.
    """
    _check_band(low, high)
    weights = truncated_importance_weights(logprobs, behaviour_logprobs, mask, cap=cap)
    mask = mask.bool()
    mean = _log_ratio(logprobs, behaviour_logprobs, mask).sum(-1) / mask.sum(-1).clamp(min=1)
    kept = (mean.exp() >= low) & (mean.exp() <= high)
    return weights * kept[..., None]


def effective_sample_share(weights: torch.Tensor, mask: torch.Tensor) -> float:
    """(Σw)²/(n·Σw²) over the mask: 1 where all weights are equal, towards 1/n as one token outweighs the rest (Kish 1965)."""
    seen = weights[mask.bool()].double()
    squares = seen.square().sum()
    return float(seen.sum().square() / (len(seen) * squares)) if squares > 0 else 0.0


def _log_ratio(logprobs: torch.Tensor, behaviour_logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    difference = visible(logprobs.detach(), mask) - visible(behaviour_logprobs.detach(), mask)
    return difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def _check_band(low: float, high: float) -> None:
    if not 0 < low < high:
        raise ValueError(f"band: expected 0 < low < high, found {low} and {high}")
