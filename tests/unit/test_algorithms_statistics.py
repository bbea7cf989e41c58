"""Moments that add up over micro-batches and ranks, whitening and explained variance."""

import statistics as plain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scale_rlhf.algorithms.statistics import (
    explained_variance,
    explained_variance_moments,
    masked_moments,
    mean_and_variance,
    whiten,
)

NAN = float("nan")
number = st.floats(-100, 100, allow_nan=False)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(number, st.booleans()), min_size=1, max_size=20), st.integers(0, 20))
def test_moments_add_up_and_give_mean_and_variance(tokens, split):
    values = torch.tensor([[v if seen else NAN for v, seen in tokens]], dtype=torch.float64)
    mask = torch.tensor([[seen for _, seen in tokens]])
    parts = [masked_moments(values[:, part], mask[:, part]) for part in (slice(0, split), slice(split, None))]
    mean, variance = mean_and_variance(*(a + b for a, b in zip(*parts, strict=True)))
    seen = [v for v, here in tokens if here]
    assert float(mean) == pytest.approx(plain.fmean(seen) if seen else 0, abs=1e-9)
    assert float(variance) == pytest.approx(plain.pvariance(seen) if seen else 0, rel=1e-6, abs=1e-6)


def test_moments_keep_their_digits_far_from_zero():
    values = (torch.arange(1000) % 2 + 10000.0)[None]
    mean, variance = mean_and_variance(*masked_moments(values, torch.ones_like(values).bool()))
    assert float(mean) == pytest.approx(10000.5) and float(variance) == pytest.approx(0.25)


def test_whitened_tokens_have_mean_zero_and_deviation_one():
    torch.manual_seed(0)
    values, mask = torch.randn(8, 9) * 3 + 5, torch.rand(8, 9) > 0.4
    clean = whiten(values, mask)
    seen = clean[mask]
    assert float(seen.mean()) == pytest.approx(0, abs=1e-6) and float(seen.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert (clean[~mask] == 0).all() and clean.dtype == values.dtype
    dirty = values.masked_fill(~mask, NAN).requires_grad_()
    again = whiten(dirty, mask)
    assert torch.equal(again, clean)
    again.square().sum().backward()
    assert torch.isfinite(dirty.grad).all() and (dirty.grad[~mask] == 0).all()


def test_whitening_a_cut_batch_with_global_moments_is_whitening_the_batch():
    torch.manual_seed(1)
    values, mask = torch.randn(6, 5), torch.rand(6, 5) > 0.3
    moments = [masked_moments(values[i:i + 2], mask[i:i + 2]) for i in (0, 2, 4)]
    mean, variance = mean_and_variance(*(sum(column) for column in zip(*moments, strict=True)))
    parts = [whiten(values[i:i + 2], mask[i:i + 2], mean=mean, variance=variance) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), whiten(values, mask), atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [0.1, -3.0, 0.0])
def test_equal_values_whiten_to_zero(value):
    whitened = whiten(torch.full((3, 4), value), torch.ones(3, 4).bool())
    torch.testing.assert_close(whitened, torch.zeros(3, 4), atol=1e-4, rtol=0)


def test_nothing_to_whiten():
    assert whiten(torch.full((2, 3), NAN), torch.zeros(2, 3).bool()).tolist() == [[0.0] * 3] * 2


def test_explained_variance_by_its_definition():
    torch.manual_seed(2)
    returns = torch.randn(6, 5, dtype=torch.float64) + 4
    values, mask = returns * 0.5 + torch.randn(6, 5) * 0.2, torch.rand(6, 5) > 0.3
    values[~mask] = NAN
    parts = [explained_variance_moments(values[i:i + 3], returns[i:i + 3], mask[i:i + 3]) for i in (0, 3)]
    seen, error = returns[mask], (returns - values)[mask]
    expected = 1 - float(error.var(correction=0) / seen.var(correction=0))
    assert explained_variance(parts[0] + parts[1]) == pytest.approx(expected, rel=1e-9)


def test_explained_variance_at_its_ends():
    returns, mask = torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3).bool()
    assert explained_variance(explained_variance_moments(returns, returns, mask)) == 1.0
    assert explained_variance(explained_variance_moments(returns + 7, returns, mask)) == pytest.approx(1.0)  # a constant offset
    assert explained_variance(explained_variance_moments(torch.zeros(1, 3), returns, mask)) == pytest.approx(0.0)
    assert explained_variance(explained_variance_moments(-returns, returns, mask)) < 0
    assert explained_variance(explained_variance_moments(returns, torch.ones(1, 3), mask)) == 0.0  # nothing varies
