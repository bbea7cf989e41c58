"""Statistics of a batch that is spread over micro-batches and ranks: sums that add up, and what they give.

Sums are float64: a variance taken from float32 sums of squares loses its digits when the mean is large.
"""

import torch

from scale_rlhf.algorithms.masking import visible

EPSILON = 1e-8  # added to a variance before its root, as in the original PPO code for language models


def masked_moments(values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(count, sum, sum of squares) over the mask: three float64 scalars that ranks can add up."""
    mask = mask.bool()
    seen = visible(values.detach(), mask).double()
    return mask.sum().double(), seen.sum(), seen.square().sum()


def mean_and_variance(
    count: torch.Tensor, total: torch.Tensor, squares: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance from (added) moments; (0, 0) where nothing was counted."""
    count = count.clamp(min=1)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0)


def whiten(
    values: torch.Tensor, mask: torch.Tensor, *,
    mean: torch.Tensor | float | None = None, variance: torch.Tensor | float | None = None,
) -> torch.Tensor:
    """(x − mean)/√(variance + 1e-8) on the masked tokens, 0 behind the mask ("N Implementation Details", 4.3).

    mean, variance: of the whole global batch, from `mean_and_variance` of moments that were added over ranks.
    None: of these values alone. The variance is the biased one.
    """
    mask = mask.bool()
    own_mean, own_variance = mean_and_variance(*masked_moments(values, mask))
    mean = torch.as_tensor(own_mean if mean is None else mean, dtype=torch.float64, device=values.device)
    variance = torch.as_tensor(own_variance if variance is None else variance, dtype=torch.float64, device=values.device)
    centred = visible(values, mask).double() - mean
    return visible((centred * torch.rsqrt(variance + EPSILON)).to(values.dtype), mask)


def explained_variance_moments(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[count, ΣR, ΣR², Σ(R−V), Σ(R−V)²] over the mask, float64: micro-batches and ranks can add them up."""
    mask = mask.bool()
    returns = visible(returns, mask)
    count, total, squares = masked_moments(returns, mask)
    _, residual, residual_squares = masked_moments(returns - visible(values, mask), mask)
    return torch.stack([count, total, squares, residual, residual_squares])


def explained_variance(moments: torch.Tensor) -> float:
    """1 − Var(R − V)/Var(R) from (added) `explained_variance_moments`; 0 where the returns do not vary."""
    count, total, squares, residual, residual_squares = moments.unbind()
    _, variance = mean_and_variance(count, total, squares)
    _, unexplained = mean_and_variance(count, residual, residual_squares)
    return 1.0 - float(unexplained / variance) if variance > 0 else 0.0
