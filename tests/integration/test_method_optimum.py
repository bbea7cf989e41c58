"""Which methods have π* ∝ π_ref·exp(r/β) as their fixed point, by exact expectations on the three-token task.

The policy is a table: one softmax for each prefix, so every expectation is a sum over all sequences, and what a method does
is its own expected gradient, without noise. With the penalty in the reward by k1 the gradient of each method vanishes at π*.
It does not where the penalty is taken otherwise:

- k2 or k3 in the reward: the estimate's own gradient is missing, which is zero for k1 alone.
- k2 in the loss: each token's own reverse KL, but what a token does to the KL of later ones is not credited to it.
- k3 in the loss: each token's forward KL.
- Dividing by a group's deviation: the reward is weighed by 1/deviation against a penalty in the loss (GRPO as published).
  With the penalty in the reward π* stays the fixed point, but near it what is left of the advantage is blown up to size 1.
"""

import itertools

import numpy as np
import pytest
import torch

from scale_rlhf.algorithms.advantages import generalized_advantage_estimation
from scale_rlhf.algorithms.estimators import Outcome
from scale_rlhf.algorithms.losses import kl_loss
from scale_rlhf.algorithms.rewards import token_rewards
from scale_rlhf.algorithms.statistics import whiten
from scale_rlhf.config.methods import ADVANTAGES, LOSSES
from scale_rlhf.config.schema import PPOSection
from scale_rlhf.training.methods import estimator, policy_loss

SYMBOLS, LENGTH, BETA = 4, 3, 0.5
SEQUENCES = torch.tensor(list(itertools.product(range(SYMBOLS), repeat=LENGTH)))
RANDOM = np.random.default_rng(3)
SCORES = torch.from_numpy(RANDOM.normal(0.0, 0.6, SYMBOLS**LENGTH))
REFERENCE = torch.from_numpy(RANDOM.normal(0.0, 0.7, (LENGTH, SYMBOLS**LENGTH, SYMBOLS)))  # logits by prefix; few are used
MASK = torch.ones(SYMBOLS**LENGTH, LENGTH, dtype=torch.bool)
PREFIXES = [(SEQUENCES[:, :t] * SYMBOLS ** torch.arange(t)).sum(-1) for t in range(LENGTH)]


def token_logprobs(tables: torch.Tensor) -> torch.Tensor:
    """[sequences, tokens] of all sequences."""
    columns = [torch.log_softmax(tables[t][PREFIXES[t]], -1).gather(-1, SEQUENCES[:, t, None]) for t in range(LENGTH)]
    return torch.cat(columns, -1)


REF = token_logprobs(REFERENCE)


def optimum() -> torch.Tensor:
    return torch.softmax(REF.sum(-1) + SCORES / BETA, 0)


def tables_of(distribution: torch.Tensor) -> torch.Tensor:
    """The tables whose policy is this distribution of sequences."""
    tables = REFERENCE.clone()
    for t in range(LENGTH):
        for prefix in PREFIXES[t].unique():
            here = PREFIXES[t] == prefix
            mass = torch.stack([distribution[here & (SEQUENCES[:, t] == symbol)].sum() for symbol in range(SYMBOLS)])
            tables[t, prefix] = mass.log()
    return tables


def total_variation(tables: torch.Tensor) -> float:
    return 0.5 * float((token_logprobs(tables).sum(-1).exp() - optimum()).abs().sum())


def expected_gradient(tables: torch.Tensor, ppo: PPOSection) -> torch.Tensor:
    """Of one update from on-policy samples, exactly: every pair of sequences is a group of two, weighed by its probability."""
    x = tables.clone().requires_grad_()
    logprobs = token_logprobs(x)
    first, second = (index.flatten() for index in torch.meshgrid(*[torch.arange(len(SEQUENCES))] * 2, indexing="ij"))
    rows = torch.stack([first, second], -1).flatten()
    probability = logprobs.detach().sum(-1).exp()
    weight = (probability[first] * probability[second] / 2).repeat_interleave(2)[:, None]
    mask, new = MASK[rows], logprobs[rows]
    rewards = token_rewards(new.detach(), REF[rows], SCORES[rows], mask, coefficient=BETA, kind=ppo.kl_estimator)
    if ADVANTAGES[ppo.advantages].critic:
        values = torch.stack([torch.sin(1.0 + 7 * prefix) for prefix in PREFIXES], -1).double()[rows]  # any critic will do
        advantages, _ = generalized_advantage_estimation(rewards, values, mask, gamma=1.0, lam=1.0)
    else:
        groups = torch.arange(len(first)).repeat_interleave(2)
        advantages = estimator(ppo)(Outcome(rewards, mask, groups, torch.full((len(rows),), 0.3, dtype=torch.float64)))
    if ADVANTAGES[ppo.advantages].whitens:
        mean = float((advantages * weight).sum() / LENGTH)
        advantages = whiten(advantages, mask, mean=mean, variance=float(((advantages - mean).square() * weight).sum() / LENGTH))
    policy_loss(ppo)[0](new, new.detach(), advantages * weight, mask, denominator=LENGTH).backward()
    return x.grad


CASES = [(advantages, "ppo") for advantages in ADVANTAGES] + [("leave_one_out", loss) for loss in LOSSES if loss != "ppo"]


@pytest.mark.parametrize("advantages,loss", CASES)
def test_the_gradient_vanishes_at_the_optimum_and_not_before_it(advantages, loss):
    scaled = {"scale_by_std": False} if advantages == "group_relative" else {}
    ppo = PPOSection(advantages=advantages, responses_per_prompt=2, loss=loss, **scaled)
    assert total_variation(REFERENCE) > 0.3
    away = expected_gradient(REFERENCE, ppo).norm()
    there = expected_gradient(tables_of(optimum()), ppo).norm()
    assert away > 1e-2 and there < 1e-6 * away, (float(there), float(away))


def fixed_point(kl_in: str, kind: str, scaled: bool = False) -> float:
    """Total variation from π* where exact ascent ends, in the limit of large groups."""
    x = REFERENCE.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS)
    loss_of, _ = policy_loss(PPOSection())
    for _ in range(STEPS):
        logprobs = token_logprobs(x)
        old = logprobs.detach()
        weight = old.sum(-1).exp()
        rewards = token_rewards(old, REF, SCORES, MASK, coefficient=BETA if kl_in == "reward" else 0.0, kind=kind)
        totals = rewards.sum(-1)
        centred = totals - (totals * weight).sum()
        advantage = centred / ((centred.square() * weight).sum().sqrt() if scaled else 1.0)
        loss = loss_of(logprobs, old, (advantage * weight)[:, None].expand(MASK.shape), MASK, denominator=1)
        if kl_in == "loss":
            weights = weight[:, None].expand(MASK.shape)
            loss = loss + BETA * kl_loss(logprobs, old, REF, MASK, kind=kind, weights=weights, denominator=1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return total_variation(x.detach())


STEPS = 400


@pytest.mark.parametrize("kl_in,kind,scaled,reaches", [
    ("reward", "k1", False, True), ("reward", "k1", True, True), ("reward", "k2", False, False), ("reward", "k3", False, False),
    ("loss", "k2", False, False), ("loss", "k3", False, False), ("loss", "k3", True, False),
])
def test_where_each_form_of_the_penalty_ends(kl_in, kind, scaled, reaches):
    far = fixed_point(kl_in, kind, scaled)
    print(f"kl_in {kl_in}, {kind}, divided by the deviation: {scaled}: total variation {far:.4f}")
    assert far < 0.01 if reaches else far > 0.02
