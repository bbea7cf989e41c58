"""What every masked function shares."""

import torch


def visible(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`tensor` with zeros behind the mask; no value and no gradient passes from behind it."""
    return torch.where(mask, tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))


def divided_sum(tensor: torch.Tensor, mask: torch.Tensor, denominator: float | torch.Tensor | None) -> torch.Tensor:
    """Sum over the mask, divided by `denominator`; None is the mean over the mask, 0 where it is empty.

    One global denominator makes the gradient of a batch the sum of its micro-batches' gradients,
    however the batch is cut. A denominator of 0 or less is a ValueError.
    """
    total = visible(tensor, mask).sum()
    if denominator is None:
        return total / mask.sum().clamp(min=1)
    if denominator <= 0:
        raise ValueError(f"denominator: expected a count above 0, found {float(denominator)}")
    return total / denominator
