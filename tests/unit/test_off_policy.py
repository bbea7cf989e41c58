"""Importance weights of decoupled PPO, how far policy and engine drift, and advantages without a critic."""

import math

import numpy as np
import pytest
import torch

from scale_rlhf.algorithms.corrections import (
    effective_sample_share,
    sequence_masked_importance_weights,
    token_masked_importance_weights,
    truncated_importance_weights,
)
from scale_rlhf.algorithms.losses import ppo_policy_loss
from scale_rlhf.config.schema import OverlapSection, PPOSection
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.training.batch import TrainingBatch
from scale_rlhf.training.critic_free import critic_free_advantages
from scale_rlhf.training.off_policy import gap, importance_weights

NAN = float("nan")
RATIOS = [[0.2, 0.9, 3.0], [1.5, 1.5, 1.5]]
NEW = torch.tensor(RATIOS).log()
OLD = torch.zeros(2, 3)
MASK = torch.ones(2, 3, dtype=torch.bool)


def test_a_token_outside_the_band_has_no_weight():
    weights = token_masked_importance_weights(NEW, OLD, MASK, low=0.5, high=2.0)
    assert torch.allclose(weights, torch.tensor([[0.0, 0.9, 0.0], [1.5, 1.5, 1.5]]))


def test_a_response_whose_mean_ratio_left_the_band_has_no_weight():
    weights = sequence_masked_importance_weights(NEW, OLD, MASK, low=0.8, high=1.4, cap=2.0)
    assert math.exp(NEW[0].mean()) == pytest.approx(0.81433, abs=1e-4)  # inside: kept, truncated
    assert torch.allclose(weights, torch.tensor([[0.2, 0.9, 2.0], [0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("weigh", [
    lambda *a: truncated_importance_weights(*a, cap=2.0),
    lambda *a: token_masked_importance_weights(*a, low=0.5, high=2.0),
    lambda *a: sequence_masked_importance_weights(*a, low=0.5, high=2.0, cap=2.0),
])
def test_weights_have_no_gradient_and_see_nothing_behind_the_mask(weigh):
    new = torch.tensor([[0.1, -0.2, NAN]], requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    weights = weigh(new, torch.tensor([[0.0, 0.0, NAN]]), mask)
    assert not weights.requires_grad and weights[0, 2] == 0 and torch.isfinite(weights).all()
    shorter = weigh(new[:, :2], torch.zeros(1, 2), mask[:, :2])
    assert torch.equal(weights[:, :2], shorter)


@pytest.mark.parametrize("band", [(0.0, 2.0), (2.0, 0.5)])
def test_a_band_must_be_a_band(band):
    with pytest.raises(ValueError, match="0 < low < high"):
        token_masked_importance_weights(NEW, OLD, MASK, low=band[0], high=band[1])


def test_a_weight_on_the_advantage_is_a_weight_on_the_clipped_loss():
    torch.manual_seed(0)
    new, old, advantages = torch.randn(3, 4) / 3, torch.randn(3, 4) / 3, torch.randn(3, 4)
    weights, mask = torch.rand(3, 4) * 2, torch.ones(3, 4, dtype=torch.bool)
    clips = {"clip_low": 0.2, "clip_high": 0.3, "dual_clip": 2.0}
    one_by_one = sum(weights[i] * ppo_policy_loss(new[i], old[i], advantages[i], mask[i], **clips)
                     for i in [(row, column) for row in range(3) for column in range(4)])
    assert torch.allclose(ppo_policy_loss(new, old, advantages * weights, mask, **clips, denominator=1), one_by_one)


@pytest.mark.parametrize("correction", ["none", "truncated", "token_mask", "sequence_mask"])
def test_weights_by_configuration(correction):
    overlap = OverlapSection(anchor="proximal", correction=correction, correction_cap=2.0, correction_band=(0.5, 1.4))
    found = importance_weights([row.numpy() for row in NEW], [np.zeros(3, np.float32)] * 2, overlap)
    expected = {
        "none": [[1, 1, 1], [1, 1, 1]], "truncated": [[0.2, 0.9, 2.0], [1.5, 1.5, 1.5]],
        "token_mask": [[0, 0.9, 0], [0, 0, 0]], "sequence_mask": [[0.2, 0.9, 2.0], [0, 0, 0]],
    }[correction]
    assert np.allclose(found, expected)


def test_effective_samples():
    ones = torch.ones(1, 4, dtype=torch.bool)
    assert effective_sample_share(torch.full((1, 4), 3.0), ones) == pytest.approx(1.0)
    assert effective_sample_share(torch.tensor([[1.0, 0, 0, 0]]), ones) == pytest.approx(0.25)
    drift = gap(np.asarray([0.0] * 99 + [1.0]))
    assert drift["gap_mean"] == pytest.approx(0.01) and 0 < drift["gap_p99"] < 1 and 0.9 < drift["effective_share"] < 1


def test_group_advantages_are_grpos():
    samples = [Sample(Prompt(i, i // 2, np.zeros(2, np.int32)), np.zeros(2, np.int32), np.full(2, -1.0, np.float32),
                      np.zeros(2, np.int32), ended=i != 3) for i in range(4)]
    reference = [np.full(2, -1.5, np.float32)] * 2 + [np.full(2, -1.0, np.float32)] * 2
    batch = TrainingBatch(samples, np.asarray([1.0, 3.0, 2.0, 2.0], np.float32), reference, kl_coefficient=0.1)
    advantages, metrics = critic_free_advantages(
        batch, PPOSection(advantages="group_relative", scale_by_std=False, missing_end_penalty=-1.0))
    assert np.allclose([a[0] for a in advantages], [-1.0, 1.0, 0.5, -0.5])
    assert all(len(a) == 2 and a[0] == a[1] for a in advantages)
    assert metrics["kl"] == pytest.approx(0.5) and metrics["ended"] == 0.75
    scaled, _ = critic_free_advantages(batch, PPOSection(advantages="group_relative", missing_end_penalty=None))
    assert np.allclose([a[0] for a in scaled], [-math.sqrt(0.5), math.sqrt(0.5), 0, 0], atol=1e-6)
