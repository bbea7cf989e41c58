"""Advantages against the published values, and against a second implementation in plain loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scale_rlhf.algorithms.advantages import (
    generalized_advantage_estimation,
    group_relative,
    leave_one_out,
    reinforce_plus_plus,
)

gae = generalized_advantage_estimation


def slow_gae(rewards, values, gamma, lam):
    """A_t as the double sum of equation 16, on a sequence without a mask; plain Python."""
    count = len(rewards)
    deltas = [rewards[t] + gamma * (values[t + 1] if t + 1 < count else 0.0) - values[t] for t in range(count)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, count)) for t in range(count)]


def cut(row, mask):
    return [x for x, seen in zip(row, mask, strict=True) if seen]


number = st.floats(-5, 5, allow_nan=False, width=32)


@st.composite
def episodes(draw):
    tokens = draw(st.integers(1, 9))
    row = st.lists(number, min_size=tokens, max_size=tokens)
    mask = draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens))
    return draw(row), draw(row), mask, draw(st.floats(0, 1)), draw(st.floats(0, 1))


def double(*rows):
    return [torch.tensor([row], dtype=torch.float64) for row in rows]


def test_gae_published_values():
    rewards, values = double([0, 0, 1, 0, 0, 1], [0.5, 0.4, 0.3, 0.9, 0.2, 0.1])
    advantages, returns = gae(rewards, values, torch.ones(1, 6, dtype=torch.bool), gamma=1.0, lam=0.95)
    assert advantages[0].tolist() == pytest.approx([1.2638, 1.4356, 1.6164, 0.0172, 0.7550, 0.9000], abs=5e-5)
    assert returns[0].tolist() == pytest.approx([1.7638, 1.8356, 1.9164, 0.9172, 0.9550, 1.0000], abs=5e-5)


def test_gae_published_values_right_padded():
    rewards, values = double([0, 0, 0, 1, 0, 0], [0.5, 0.4, 0.3, 0.9, 0.2, 0.1])
    mask = torch.tensor([[True, True, True, True, False, False]])
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=0.95)
    assert advantages[0].tolist() == pytest.approx([0.4322, 0.5603, 0.6950, 0.1000, 0, 0], abs=6e-5)
    assert returns[0, 4:].tolist() == [0, 0]


@settings(max_examples=200, deadline=None)
@given(episodes())
def test_gae_is_gae_on_the_sequence_with_the_gaps_cut_out(episode):
    rewards, values, mask, gamma, lam = episode
    advantages, returns = gae(*double(rewards, values), torch.tensor([mask]), gamma=gamma, lam=lam)
    expected = slow_gae(cut(rewards, mask), cut(values, mask), gamma, lam)
    assert cut(advantages[0].tolist(), mask) == pytest.approx(expected, abs=1e-9)
    behind = [not seen for seen in mask]
    assert cut(advantages[0].tolist(), behind) == cut(returns[0].tolist(), behind) == [0.0] * sum(behind)


@settings(max_examples=100, deadline=None)
@given(episodes(), st.sampled_from([float("nan"), float("inf"), -7.0]))
def test_gae_ignores_what_is_behind_the_mask(episode, rubbish):
    rewards, values, mask, gamma, lam = episode
    rewards, values, mask = *double(rewards, values), torch.tensor([mask])
    clean = gae(rewards, values, mask, gamma=gamma, lam=lam)
    dirty_values = values.masked_fill(~mask, rubbish).requires_grad_()
    dirty = gae(rewards.masked_fill(~mask, rubbish), dirty_values, mask, gamma=gamma, lam=lam)
    assert torch.equal(clean[0], dirty[0]) and torch.equal(clean[1], dirty[1])
    (dirty[0].sum() + dirty[1].sum()).backward()
    assert torch.isfinite(dirty_values.grad).all()
    assert (dirty_values.grad[~mask] == 0).all()


@settings(max_examples=100, deadline=None)
@given(episodes())
def test_lambda_one_is_return_minus_value_and_zero_is_the_td_error(episode):
    rewards, values, mask, gamma, _ = episode
    seen_rewards, seen_values = cut(rewards, mask), cut(values, mask)
    advantages, _ = gae(*double(rewards, values), torch.tensor([mask]), gamma=gamma, lam=1.0)
    to_go = [sum(gamma ** (k - t) * r for k, r in enumerate(seen_rewards) if k >= t) for t in range(len(seen_rewards))]
    assert cut(advantages[0].tolist(), mask) == pytest.approx([g - v for g, v in zip(to_go, seen_values, strict=True)], abs=1e-9)

    advantages, _ = gae(*double(rewards, values), torch.tensor([mask]), gamma=gamma, lam=0.0)
    following = seen_values[1:] + [0.0]
    errors = [r + gamma * n - v for r, n, v in zip(seen_rewards, following, seen_values, strict=False)]
    assert cut(advantages[0].tolist(), mask) == pytest.approx(errors, abs=1e-9)


def test_rows_of_a_batch_do_not_touch():
    torch.manual_seed(0)
    rewards, values, mask = torch.randn(5, 7), torch.randn(5, 7), torch.rand(5, 7) > 0.3
    together = gae(rewards, values, mask, gamma=0.9, lam=0.8)[0]
    alone = torch.cat([gae(rewards[i:i + 1], values[i:i + 1], mask[i:i + 1], gamma=0.9, lam=0.8)[0] for i in range(5)])
    assert torch.equal(together, alone)


def test_no_tokens_at_all():
    advantages, returns = gae(torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool), gamma=1.0, lam=1.0)
    assert advantages.shape == returns.shape == (2, 0)


@settings(max_examples=100, deadline=None)
@given(episodes())
def test_reinforce_plus_plus_is_the_discounted_reward_to_go(episode):
    rewards, _, mask, gamma, _ = episode
    dirty = torch.tensor([rewards], dtype=torch.float64).masked_fill(~torch.tensor([mask]), float("nan"))
    returns = reinforce_plus_plus(dirty, torch.tensor([mask]), gamma=gamma)
    seen = cut(rewards, mask)
    expected = [sum(gamma ** (k - t) * seen[k] for k in range(t, len(seen))) for t in range(len(seen))]
    assert cut(returns[0].tolist(), mask) == pytest.approx(expected, abs=1e-9)
    assert torch.isfinite(returns).all()


def slow_group(scores, ids, place):
    return [s for s, i in zip(scores, ids, strict=True) if i == ids[place]]


batches = st.lists(st.tuples(number, st.integers(-2, 3)), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(batches)
def test_group_relative_and_leave_one_out_against_loops(batch):
    scores, ids = [s for s, _ in batch], [i for _, i in batch]
    tensors = torch.tensor(scores, dtype=torch.float64), torch.tensor(ids)
    centred = group_relative(*tensors, scale_by_std=False).tolist()
    scaled = group_relative(*tensors, scale_by_std=True).tolist()
    left_out = leave_one_out(*tensors).tolist()
    for place, score in enumerate(scores):
        group = slow_group(scores, ids, place)
        if len(group) == 1 or max(group) == min(group):
            assert centred[place] == scaled[place] == left_out[place] == 0.0
            continue
        mean = sum(group) / len(group)
        deviation = math.sqrt(sum((s - mean) ** 2 for s in group) / (len(group) - 1))
        assert centred[place] == pytest.approx(score - mean, abs=1e-9)
        assert left_out[place] == pytest.approx(score - (sum(group) - score) / (len(group) - 1), abs=1e-9)
        if deviation > 1e-6:
            assert scaled[place] == pytest.approx((score - mean) / deviation, abs=1e-6)


def test_equal_scores_get_exactly_zero_although_their_mean_rounds():
    scores, ids = torch.full((7,), 0.1), torch.zeros(7, dtype=torch.long)
    assert group_relative(scores, ids, scale_by_std=True).tolist() == [0.0] * 7
    assert leave_one_out(scores, ids).tolist() == [0.0] * 7


def test_a_nan_score_stays_in_its_group():
    scores, ids = torch.tensor([float("nan"), 1.0, 1.0, 3.0]), torch.tensor([0, 0, 1, 1])
    assert leave_one_out(scores, ids)[2:].tolist() == [-2.0, 2.0]


def test_group_shapes_are_checked():
    with pytest.raises(ValueError, match="scores and group_ids"):
        leave_one_out(torch.zeros(3), torch.zeros(4, dtype=torch.long))
