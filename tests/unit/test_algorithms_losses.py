"""Losses and importance weights: published values, plain loops, NaN behind the mask, denominators."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scale_rlhf.algorithms.corrections import truncated_importance_weights
from scale_rlhf.algorithms.losses import pairwise_reward_loss, ppo_metrics, ppo_policy_loss, value_loss

CLIP = {"clip_low": 0.2, "clip_high": 0.3}


def slow_policy_loss(logprob, old, advantage, low, high, dual=None):
    ratio = math.exp(logprob - old)
    loss = max(-advantage * ratio, -advantage * min(max(ratio, 1 - low), 1 + high))
    return min(loss, -advantage * dual) if dual is not None and advantage < 0 else loss


def slow_value_loss(value, old, target, clip):
    error = (value - target) ** 2
    if clip is None:
        return error / 2
    return max(error, (min(max(value, old - clip), old + clip) - target) ** 2) / 2


def drawn(seed=0, shape=(4, 7)):
    """logprobs, old logprobs, advantages, mask; about half of the ratios are outside the clip range."""
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    return draw[0] * 0.5 - 2, draw[1] * 0.5 - 2, draw[2], torch.rand(*shape, generator=generator) > 0.3


def masked(tensor, mask):
    return tensor[mask].tolist()


@pytest.mark.parametrize("dual", [None, 1.5, 3.0])
@pytest.mark.parametrize("seed", range(5))
def test_policy_loss_against_loops(seed, dual):
    logprobs, old, advantages, mask = drawn(seed)
    rows = zip(masked(logprobs, mask), masked(old, mask), masked(advantages, mask), strict=True)
    terms = [slow_policy_loss(*row, 0.2, 0.3, dual) for row in rows]
    mean = ppo_policy_loss(logprobs, old, advantages, mask, **CLIP, dual_clip=dual)
    assert mean.shape == () and float(mean) == pytest.approx(sum(terms) / len(terms), rel=1e-12)
    over = ppo_policy_loss(logprobs, old, advantages, mask, **CLIP, dual_clip=dual, denominator=1000)
    assert float(over) == pytest.approx(sum(terms) / 1000, rel=1e-12)


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_value_loss_against_loops(seed, clip):
    values, old, returns, mask = drawn(seed)
    rows = zip(masked(values, mask), masked(old, mask), masked(returns, mask), strict=True)
    terms = [slow_value_loss(*row, clip) for row in rows]
    assert float(value_loss(values, old, returns, mask, clip=clip)) == pytest.approx(sum(terms) / len(terms), rel=1e-12)
    over = value_loss(values, old, returns, mask, clip=clip, denominator=torch.tensor(50.0))
    assert float(over) == pytest.approx(sum(terms) / 50, rel=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_policy_gradient_vanishes_exactly_where_the_clip_decides(log_ratio, advantage):
    logprob = torch.tensor([[log_ratio]], dtype=torch.float64, requires_grad=True)
    old, advantages = torch.zeros_like(logprob), torch.full_like(logprob, advantage)
    ppo_policy_loss(logprob, old, advantages, torch.ones(1, 1).bool(), **CLIP).backward()
    ratio = math.exp(log_ratio)
    clipped = (advantage > 0 and ratio > 1.3) or (advantage < 0 and ratio < 0.8)
    assert float(logprob.grad) == pytest.approx(0.0 if clipped else -advantage * ratio, rel=1e-9, abs=1e-12)


def losses(logprobs, old, advantages, mask, **more):
    yield lambda x: ppo_policy_loss(x, old, advantages, mask, **CLIP, dual_clip=2.0, **more)
    yield lambda x: value_loss(x, old, advantages, mask, clip=0.2, **more)
    yield lambda x: value_loss(x, old, advantages, mask, clip=None, **more)


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), float("-inf"), 1e30])
def test_what_is_behind_the_mask_changes_nothing(which, rubbish):
    logprobs, old, advantages, mask = drawn()
    clean = logprobs.clone().requires_grad_()
    value = list(losses(logprobs, old, advantages, mask))[which](clean)
    value.backward()
    dirty = logprobs.masked_fill(~mask, rubbish).requires_grad_()
    rest = (old.masked_fill(~mask, -rubbish), advantages.masked_fill(~mask, rubbish))
    dirty_value = list(losses(dirty, *rest, mask))[which](dirty)
    dirty_value.backward()
    assert torch.equal(value, dirty_value)
    assert torch.equal(clean.grad, dirty.grad) and (dirty.grad[~mask] == 0).all()


@pytest.mark.parametrize("which", range(3))
def test_one_denominator_makes_the_gradient_independent_of_the_cut(which):
    logprobs, old, advantages, mask = drawn(shape=(6, 5))
    count = mask.sum()
    whole = logprobs.clone().requires_grad_()
    list(losses(logprobs, old, advantages, mask))[which](whole).backward()
    parts = logprobs.clone().requires_grad_()
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        cut = (old[rows], advantages[rows], mask[rows])
        list(losses(logprobs, *cut, denominator=count))[which](parts[rows]).backward()
    torch.testing.assert_close(whole.grad, parts.grad, atol=1e-15, rtol=1e-12)


@pytest.mark.parametrize("which", range(3))
def test_an_empty_mask_is_a_loss_of_zero_that_can_be_differentiated(which):
    logprobs, old, advantages, mask = drawn()
    x = logprobs.clone().requires_grad_()
    loss = list(losses(logprobs, old, advantages, torch.zeros_like(mask)))[which](x)
    loss.backward()
    assert float(loss.detach()) == 0.0 and (x.grad == 0).all()


def test_what_a_loss_is_taken_against_is_constant():
    logprobs, old, advantages, mask = drawn()
    old.requires_grad_(), advantages.requires_grad_(), logprobs.requires_grad_()
    ppo_policy_loss(logprobs, old, advantages, mask, **CLIP).backward()
    value_loss(logprobs, old, advantages, mask, clip=0.2).backward()
    assert old.grad is None and advantages.grad is None and logprobs.grad is not None


def test_denominator_of_zero_is_an_error():
    logprobs, old, advantages, mask = drawn()
    with pytest.raises(ValueError, match="denominator"):
        ppo_policy_loss(logprobs, old, advantages, mask, **CLIP, denominator=0)


def test_a_ratio_that_overflows_leaves_a_finite_loss_and_gradient():
    x = torch.tensor([[0.0, 0.0]], requires_grad=True)
    loss = ppo_policy_loss(x, torch.tensor([[-500.0, 500.0]]), torch.tensor([[1.0, -1.0]]), torch.ones(1, 2).bool(), **CLIP)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(x.grad).all()


def test_metrics_are_sums_that_add_up():
    logprobs, old, advantages, mask = drawn()
    dirty = (logprobs.masked_fill(~mask, float("nan")), old, advantages.masked_fill(~mask, float("inf")))
    whole = ppo_metrics(*dirty, mask, **CLIP)
    halves = [ppo_metrics(*(t[rows] for t in dirty), mask[rows], **CLIP) for rows in (slice(0, 2), slice(2, 4))]
    for name, value in whole.items():
        assert float(value) == pytest.approx(sum(float(half[name]) for half in halves), rel=1e-12)
    rows = list(zip(masked(logprobs, mask), masked(old, mask), masked(advantages, mask), strict=True))
    ratios = [math.exp(new - before) for new, before, _ in rows]
    assert float(whole["tokens"]) == len(rows)
    assert float(whole["ratio"]) == pytest.approx(sum(ratios))
    assert float(whole["approximate_kl"]) == pytest.approx(sum((new - before) ** 2 / 2 for new, before, _ in rows))
    deciding = sum((a > 0 and r > 1.3) or (a < 0 and r < 0.8) for r, (_, _, a) in zip(ratios, rows, strict=True))
    assert 0 < deciding < len(rows) and float(whole["clip_fraction"]) == deciding


def test_pairwise_reward_loss_values():
    scores = torch.tensor([0.3, -1.0, 4.0], dtype=torch.float64)
    assert float(pairwise_reward_loss(scores, scores)) == pytest.approx(math.log(2))
    assert float(pairwise_reward_loss(scores, scores, 1.7)) == pytest.approx(math.log(1 + math.exp(1.7)))
    margins = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    expected = sum(math.log(1 + math.exp(m)) for m in margins.tolist()) / 3
    assert float(pairwise_reward_loss(scores, scores, margins)) == pytest.approx(expected)
    assert float(pairwise_reward_loss(torch.tensor([1000.0]), torch.tensor([0.0]))) == 0.0
    assert float(pairwise_reward_loss(torch.tensor([0.0]), torch.tensor([1000.0]))) == 1000.0  # log(1 + e^1000), no overflow


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-8, 0), st.floats(-8, 0), st.booleans()), min_size=1, max_size=8), st.floats(0.1, 5))
def test_importance_weights(tokens, cap):
    logprobs, behaviour = (torch.tensor([[t[i] for t in tokens]], dtype=torch.float64) for i in (0, 1))
    mask = torch.tensor([[seen for *_, seen in tokens]])
    logprobs = logprobs.masked_fill(~mask, float("nan")).requires_grad_()
    weights = truncated_importance_weights(logprobs, behaviour, mask, cap=cap)
    assert not weights.requires_grad
    expected = [min(math.exp(new - old), cap) if seen else 0.0 for new, old, seen in tokens]
    assert weights[0].tolist() == pytest.approx(expected, rel=1e-9)


def test_importance_weights_never_overflow_and_check_their_cap():
    ones = torch.ones(1, 1)
    assert float(truncated_importance_weights(ones * 1000, -ones * 1000, ones.bool(), cap=2.0)) == 2.0
    with pytest.raises(ValueError, match="cap"):
        truncated_importance_weights(ones, ones, ones.bool(), cap=0)
