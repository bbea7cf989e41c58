"""Losses of policy, value and reward model: scalars. Their metrics are functions of their own.

`denominator`: the sum over the mask is divided by it; None is the mean over the mask. What a loss is taken
*against* (old log-probabilities, advantages, old values, returns) is constant: no gradient goes through it.
"""

import torch
from torch.nn import functional

from scale_rlhf.algorithms.masking import divided_sum, visible

MAX_LOG_RATIO = 20.0  # e^20 is far outside any clip range; beyond it exp overflows, and 0 · inf is NaN


def ppo_policy_loss(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, *,
    clip_low: float, clip_high: float, dual_clip: float | None = None, denominator: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """max(−A·r, −A·clip(r, 1 − ε_low, 1 + ε_high)), r = π/π_old (PPO, Schulman et al. 2017, equation 7).

    All tensors are [batch, tokens]. ε_low < ε_high is DAPO's clip-higher. dual_clip: c > 1 bounds the loss of
    a negative advantage at −A·c (Ye et al. 2020, equation 5). Raises ValueError for a denominator not above 0.
    """
    mask = mask.bool()
    ratio = _log_ratio(logprobs, old_logprobs, mask).exp()
    advantages = visible(advantages.detach(), mask)
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high))
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    return divided_sum(loss, mask, denominator)


def ppo_metrics(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, *,
    clip_low: float, clip_high: float,
) -> dict[str, torch.Tensor]:
    """Sums over the mask, float64 scalars: add them over micro-batches and ranks, then divide by "tokens".

    "clip_fraction": tokens whose clipped term decides the loss. "approximate_kl": ½(log π − log π_old)², in nats.
    "ratio": π/π_old. "tokens": how many there are.
    """
    mask = mask.bool()
    log_ratio = _log_ratio(logprobs.detach(), old_logprobs, mask)
    ratio, advantages = log_ratio.exp(), visible(advantages.detach(), mask)
    clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high) > -advantages * ratio
    sums = {"clip_fraction": clipped, "approximate_kl": 0.5 * log_ratio.square(), "ratio": ratio, "tokens": mask}
    return {name: visible(value.double(), mask).sum() for name, value in sums.items()}


def value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, *,
    clip: float | None, denominator: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """½·max((V − R)², (clip(V, V_old ± c) − R)²), the clipped loss of the PPO code (Huang et al. 2022, detail 9).

    All tensors are [batch, tokens]. clip: c, in units of the value; None leaves ½(V − R)².
    Raises ValueError for a denominator not above 0.
    """
    mask = mask.bool()
    values, old_values, returns = visible(values, mask), visible(old_values.detach(), mask), visible(returns.detach(), mask)
    error = (values - returns).square()
    if clip is not None:
        clipped = torch.clamp(values, min=old_values - clip, max=old_values + clip)
        error = torch.maximum(error, (clipped - returns).square())
    return divided_sum(0.5 * error, mask, denominator)


def pairwise_reward_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, margin: torch.Tensor | float | None = None,
) -> torch.Tensor:
    """−log σ(s_chosen − s_rejected − m), averaged over [batch] (Bradley–Terry; margin: Llama 2, equation 2).

    Scores that are equal give log 2 without a margin, log(1 + e^m) with a margin of m.
    """
    gap = chosen - rejected
    return -functional.logsigmoid(gap if margin is None else gap - margin).mean()


def _log_ratio(logprobs: torch.Tensor, old_logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    difference = visible(logprobs, mask) - visible(old_logprobs.detach(), mask)
    return difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
