"""What an update corrects for: how far the policy that learns is from the one that sampled."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import distributed

from scale_rlhf.algorithms.corrections import (
    MAX_LOG_RATIO,
    effective_sample_share,
    sequence_masked_importance_weights,
    token_masked_importance_weights,
    truncated_importance_weights,
)
from scale_rlhf.config.schema import OverlapSection
from scale_rlhf.training.batch import padded, ragged


def importance_weights(
    proximal: Sequence[np.ndarray], behaviour: Sequence[np.ndarray], overlap: OverlapSection,
) -> list[np.ndarray]:
    """overlap.correction's weights, float32 [response tokens] for each sample; ones for `none`.

    proximal, behaviour: log-probabilities of the learner before the update and of the engine, likewise.
    """
    (low, high), cap = overlap.correction_band, overlap.correction_cap
    new, mask = padded(proximal)
    old, _ = padded(behaviour)
    if overlap.correction == "truncated":
        weights = truncated_importance_weights(new, old, mask, cap=cap)
    elif overlap.correction == "token_mask":
        weights = token_masked_importance_weights(new, old, mask, low=low, high=high)
    elif overlap.correction == "sequence_mask":
        weights = sequence_masked_importance_weights(new, old, mask, low=low, high=high, cap=cap)
    else:
        weights = mask.float()
    return ragged(weights, mask)


class Drift:
    """How far the engine's log-probabilities are from the policy's before an update, on the tokens of its first step."""

    def __init__(self):
        self.differences: list[np.ndarray] = []

    def add(self, logprobs: torch.Tensor, behaviour: Sequence[np.ndarray]) -> None:
        """logprobs: [N] of a pack; behaviour: of the same tokens by sample, none for a pack that only keeps step."""
        if len(behaviour):
            self.differences.append(logprobs.detach().double().cpu().numpy() - np.concatenate(behaviour))

    def metrics(self) -> dict[str, float]:
        """Over the tokens of all ranks: "gap_mean" and "gap_p99" of the absolute difference in nats, and "effective_share",
        the effective sample size of the weights π/π_behaviour as a share of the tokens. Every rank must call it.
        """
        mine = np.concatenate(self.differences) if self.differences else np.zeros(0)
        everyone: list = [None] * distributed.get_world_size()
        distributed.all_gather_object(everyone, mine)
        return gap(np.concatenate(everyone))


def gap(difference: np.ndarray) -> dict[str, float]:
    """The metrics of `Drift` from log π − log π_behaviour, float64 [N]."""
    weights = torch.from_numpy(np.exp(np.clip(difference, -MAX_LOG_RATIO, MAX_LOG_RATIO)))
    size = np.abs(difference)
    return {
        "gap_mean": float(size.mean()), "gap_p99": float(np.quantile(size, 0.99)),
        "effective_share": effective_sample_share(weights, torch.ones_like(weights, dtype=torch.bool)),
    }
