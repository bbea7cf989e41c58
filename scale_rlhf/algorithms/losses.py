"""Losses of policy, value and reward model: scalars. Their metrics are functions of their own.

`denominator`: the sum over the mask is divided by it; None is the mean over the mask. What a loss is taken
*against* (old log-probabilities, advantages, old values, returns) is constant: no gradient goes through it.
"""

import torch
from torch.nn import functional

from scale_rlhf.algorithms.kl import kl_estimate
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
    ratio = log_ratio(logprobs, old_logprobs, mask).exp()
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
    moved = log_ratio(logprobs.detach(), old_logprobs, mask)
    clipped = ppo_clipped(logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high)
    sums = {"clip_fraction": clipped, "approximate_kl": 0.5 * moved.square(), "ratio": moved.exp(), "tokens": mask}
    return {name: visible(value.double(), mask).sum() for name, value in sums.items()}


def ppo_clipped(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, *,
    clip_low: float, clip_high: float,
) -> torch.Tensor:
    """Tokens whose clipped term decides `ppo_policy_loss`: bool [batch, tokens], False behind the mask."""
    mask = mask.bool()
    ratio, advantages = log_ratio(logprobs.detach(), old_logprobs, mask).exp(), visible(advantages.detach(), mask)
    return visible(-advantages * ratio.clamp(1 - clip_low, 1 + clip_high) > -advantages * ratio, mask)


def kl_loss(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, reference_logprobs: torch.Tensor, mask: torch.Tensor, *, kind: str,
    weights: torch.Tensor | None = None, denominator: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """sg[π/π_old]·KL_t, the estimate of each token (`kl.kl_estimate`) as a loss beside the policy's (GRPO, equation 4).

    All tensors are [batch, tokens]. The gradient is that of the token's own KL only for samples of the policy that learns;
    the ratio makes them that, as in DeepSeek-V3.2 (2025, section 3.1). weights: further ones, constant. What a token's choice
    does to the KL of later tokens is no part of it, as it is where the penalty is in the reward.

    Raises ValueError for k1, whose expected gradient is zero, and for a denominator not above 0.
    """
    if kind == "k1":
        raise ValueError('kind: expected "k2" or "k3" in a loss, found "k1": its expected gradient is zero')
    mask = mask.bool()
    ratio = log_ratio(logprobs.detach(), old_logprobs, mask).exp()
    estimate = ratio * kl_estimate(visible(logprobs, mask), visible(reference_logprobs.detach(), mask), kind)
    return divided_sum(estimate if weights is None else estimate * visible(weights.detach(), mask), mask, denominator)


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


def log_ratio(logprobs: torch.Tensor, old_logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """log π − log π_old within ±20, 0 behind the mask; no gradient through π_old."""
    difference = visible(logprobs, mask) - visible(old_logprobs.detach(), mask)
    return difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
