"""Advantages: with a critic (GAE), relative to a group, and without either.

A gap in the mask (a tool's or a user's turn between two of the model's) counts as if it were cut out: the
scan carries value and advantage across it, and discounts nothing there.
"""

import torch

from scale_rlhf.algorithms.masking import visible


def generalized_advantage_estimation(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, gamma: float, lam: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """GAE (Schulman et al. 2016, equation 16), and the returns that the value model learns.

    δ_t = r_t + γ·V_{t+1} − V_t,  A_t = δ_t + γλ·A_{t+1},  R_t = A_t + V_t; V and A after the last masked token
    are 0 (a response is a whole episode). values: of the state before each token. All are [batch, tokens].
    Returns (advantages, returns), 0 behind the mask; whiten advantages afterwards, never the returns.
    """
    mask = mask.bool()
    rewards, values = visible(rewards, mask), visible(values, mask)
    next_value = carried = values.new_zeros(values.shape[:-1])
    columns: list[torch.Tensor] = []
    for t in reversed(range(values.shape[-1])):
        here = mask[..., t]
        delta = rewards[..., t] + gamma * next_value - values[..., t]
        carried = torch.where(here, delta + gamma * lam * carried, carried)
        next_value = torch.where(here, values[..., t], next_value)
        columns.append(carried)
    advantages = visible(torch.stack(columns[::-1], dim=-1), mask) if columns else torch.zeros_like(values)
    return advantages, visible(advantages + values, mask)


def reinforce_plus_plus(rewards: torch.Tensor, mask: torch.Tensor, *, gamma: float) -> torch.Tensor:
    """Discounted reward to go, R_t = r_t + γ·R_{t+1}, [batch, tokens] (REINFORCE++, Hu 2025, equation 5).

    rewards: with the KL penalty and the score inside, as for PPO. 0 behind the mask. Whiten it over the global
    batch to have REINFORCE++'s advantages.
    """
    # GAE without a critic: V = 0 and λ = 1 leave the discounted sum.
    return generalized_advantage_estimation(rewards, torch.zeros_like(rewards), mask, gamma=gamma, lam=1.0)[0]


def group_relative(scores: torch.Tensor, group_ids: torch.Tensor, *, scale_by_std: bool) -> torch.Tensor:
    """GRPO (Shao et al. 2024, section 4.1): score − mean of its group, [batch] -> [batch].

    group_ids: integers [batch]; samples of one prompt share one, in any order. scale_by_std: divide by the
    group's unbiased deviation; False is Dr. GRPO. A group of one, or of equal scores, gets 0.
    """
    groups = _Groups(scores, group_ids)
    centred = groups.centred()
    if not scale_by_std:
        return centred
    variance = groups.spread(centred.square()) / (groups.size - 1).clamp(min=1)
    return torch.where(groups.equal, centred, centred / torch.where(groups.equal, 1.0, variance.sqrt()))


def leave_one_out(scores: torch.Tensor, group_ids: torch.Tensor) -> torch.Tensor:
    """RLOO (Ahmadian et al. 2024, equation 9): score − mean of the *others* of its group, [batch] -> [batch].

    A group of one, or of equal scores, gets 0.
    """
    groups = _Groups(scores, group_ids)
    return groups.centred() * groups.size / (groups.size - 1).clamp(min=1)


class _Groups:
    """Sums and extremes of each sample's group, spread back over the samples."""

    def __init__(self, scores: torch.Tensor, group_ids: torch.Tensor):
        if scores.shape != group_ids.shape or scores.dim() != 1:
            raise ValueError(f"scores and group_ids: expected [batch] twice, found {[*scores.shape]} and {[*group_ids.shape]}")
        self.scores = scores if scores.is_floating_point() else scores.float()
        distinct, self.places = torch.unique(group_ids, return_inverse=True)
        self.groups = len(distinct)
        self.size = self.spread(torch.ones_like(self.scores))
        # Exact: the rounded mean of equal scores may miss them by a bit, and a deviation would blow that up.
        self.equal = self._extreme("amax") == self._extreme("amin")

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of each sample's group, [batch]."""
        return values.new_zeros(self.groups).index_add(0, self.places, values)[self.places]

    def centred(self) -> torch.Tensor:
        """Score − mean of the group, exactly 0 where the group's scores are equal."""
        return torch.where(self.equal, torch.zeros_like(self.scores), self.scores - self.spread(self.scores) / self.size)

    def _extreme(self, reduce: str) -> torch.Tensor:
        empty = self.scores.new_zeros(self.groups)
        return empty.scatter_reduce(0, self.places, self.scores.detach(), reduce, include_self=False)[self.places]
