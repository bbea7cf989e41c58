"""Advantages without a value model, by one signature: outcome -> [batch, tokens]. `ppo.advantages` chooses one.

What the reward gave is `Outcome.rewards`, a token: the score at the last one, and −β·KL at each where the penalty is in the
reward. Advantages of a whole response stand at each of its tokens.
"""

from dataclasses import dataclass

import torch

from scale_rlhf.algorithms.advantages import group_relative, leave_one_out, reinforce_plus_plus
from scale_rlhf.algorithms.masking import visible


@dataclass(frozen=True)
class Outcome:
    """What a batch of responses was rewarded with.

    rewards: [batch, tokens], `rewards.token_rewards`. mask: bool, likewise. group_ids: integers [batch], one a prompt.
    baselines: [batch], the total reward of the greedy response to each one's prompt; None unless the method asks for it.
    """

    rewards: torch.Tensor
    mask: torch.Tensor
    group_ids: torch.Tensor
    baselines: torch.Tensor | None = None

    @property
    def totals(self) -> torch.Tensor:
        """Reward of each whole response, [batch]."""
        return visible(self.rewards, self.mask).sum(-1)

    def spread(self, advantages: torch.Tensor) -> torch.Tensor:
        """[batch] -> [batch, tokens], 0 behind the mask."""
        return visible(advantages[:, None].expand(self.mask.shape), self.mask)


def grpo(outcome: Outcome, *, scale_by_std: bool) -> torch.Tensor:
    """GRPO (Shao et al. 2024, section 4.1): (R − mean of the group) / its deviation; without the deviation Dr. GRPO's
    (Liu et al. 2025, "Understanding R1-Zero-like training", section 3.2).
    """
    return outcome.spread(group_relative(outcome.totals, outcome.group_ids, scale_by_std=scale_by_std))


def rloo(outcome: Outcome) -> torch.Tensor:
    """RLOO (Ahmadian et al. 2024, equation 9): R − mean of the others of the group. The baseline knows nothing of the
    response, so the gradient is unbiased for any size of the group.
    """
    return outcome.spread(leave_one_out(outcome.totals, outcome.group_ids))


def reinforce(outcome: Outcome, *, gamma: float) -> torch.Tensor:
    """REINFORCE++ (Hu 2025): the reward to go, R_t = r_t + γ·R_{t+1}. Whitened over the global batch afterwards."""
    return reinforce_plus_plus(outcome.rewards, outcome.mask, gamma=gamma)


def reinforce_with_baseline(outcome: Outcome) -> torch.Tensor:
    """REINFORCE++-baseline (Hu et al. 2025): R − mean of the group; the deviation is that of the global batch, by whitening
    afterwards, so that no prompt weighs more for having scores that are close.
    """
    return outcome.spread(group_relative(outcome.totals, outcome.group_ids, scale_by_std=False))


def remax(outcome: Outcome) -> torch.Tensor:
    """ReMax (Li et al. 2023, equation 6): reward to go less the reward of the greedy response to the same prompt.

    Raises ValueError where the outcome has no baselines.
    """
    if outcome.baselines is None:
        raise ValueError("baselines: ReMax needs the reward of a greedy response to each prompt; found none")
    to_go = reinforce_plus_plus(outcome.rewards, outcome.mask, gamma=1.0)
    return visible(to_go - outcome.baselines[:, None], outcome.mask)
