"""Losses of rankings, ratings and good or bad: published values, plain loops, properties, NaN behind the mask."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scale_rlhf.algorithms.ensembles import combined, deviation, mixed
from scale_rlhf.algorithms.losses import pairwise_reward_loss
from scale_rlhf.algorithms.preference import binary_loss, comparison_loss, plackett_luce_loss, rating_loss, told_apart

NAN = float("nan")
SCORES = st.lists(st.floats(-5, 5), min_size=2, max_size=4)

some = settings(max_examples=30)  # each of many orders


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def ranked(scores, ranks):
    """The loss of one ranking."""
    scores = torch.as_tensor(scores, dtype=torch.float64)
    return float(plackett_luce_loss(scores, torch.as_tensor(ranks).double(), torch.ones(len(scores)).bool()))


def chance_of_order(scores, order):
    """Plackett and Luce, as it is told: draw the best from all, the next from those left, …"""
    chance, left = 1.0, list(order)
    for one in order:
        chance *= math.exp(scores[one]) / sum(math.exp(scores[other]) for other in left)
        left.remove(one)
    return chance


def slow_ranking_loss(scores, ranks):
    """Efron's form in loops: level by level, one of the tied after another."""
    total = 0.0
    for rank in sorted(set(ranks)):
        tied = [s for s, r in zip(scores, ranks, strict=True) if r == rank]
        later = sum(math.exp(s) for s, r in zip(scores, ranks, strict=True) if r > rank)
        for place in range(len(tied)):
            total += math.log(later + (1 - place / len(tied)) * sum(math.exp(s) for s in tied))
        total -= sum(tied) + math.log(math.factorial(len(tied)))
    return total


def test_a_ranking_of_known_worths():
    """Worths 4, 2, 1 in that order: 4/7 · 2/3 = 8/21; the other way round 1/7 · 2/6 = 1/21."""
    worths = tensor(4, 2, 1).log()
    assert ranked(worths, [1, 2, 3]) == pytest.approx(-math.log(8 / 21), rel=1e-12)
    assert ranked(worths, [3, 2, 1]) == pytest.approx(-math.log(1 / 21), rel=1e-12)
    assert ranked([0.0] * 4, [2, 4, 1, 3]) == pytest.approx(math.log(24), rel=1e-12)


@some
@given(SCORES)
def test_the_chances_of_all_orders_add_up_to_one(scores):
    orders = list(permutations(range(1, len(scores) + 1)))
    assert sum(math.exp(-ranked(scores, order)) for order in orders) == pytest.approx(1.0, rel=1e-9)


@given(SCORES, st.randoms())
def test_without_ties_it_is_the_chance_of_the_order(scores, random):
    order = list(range(len(scores)))
    random.shuffle(order)
    ranks = [order.index(place) + 1 for place in range(len(scores))]
    assert math.exp(-ranked(scores, ranks)) == pytest.approx(chance_of_order(scores, order), rel=1e-9)


@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 3)), min_size=2, max_size=6), st.floats(-20, 20), st.randoms())
def test_ties_against_loops_whatever_the_order_of_the_row_and_the_zero_of_the_scores(rows, shift, random):
    scores, ranks = zip(*rows, strict=True)
    expected = slow_ranking_loss(scores, ranks)
    assert ranked(scores, ranks) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    shuffled = random.sample(rows, len(rows))
    moved, others = [score + shift for score, _ in shuffled], [10 * rank for _, rank in shuffled]
    assert ranked(moved, others) == pytest.approx(expected, rel=1e-7, abs=1e-7)


@some
@given(st.lists(st.tuples(st.floats(-3, 3), st.integers(1, 3)), min_size=2, max_size=4))
def test_a_tie_of_equals_is_the_chance_of_all_its_orders_together(rows):
    """Efron's form is exact there: those of one rank are given one score, and every order that the ranks allow is counted."""
    level = {rank: score for score, rank in rows}
    ranks = [rank for _, rank in rows]
    scores = [level[rank] for rank in ranks]
    allowed = [order for order in permutations(range(len(ranks))) if [ranks[i] for i in order] == sorted(ranks)]
    assert math.exp(-ranked(scores, ranks)) == pytest.approx(sum(chance_of_order(scores, order) for order in allowed), rel=1e-9)


@given(st.floats(-8, 8))
def test_a_tie_of_two_pulls_them_together(gap):
    assert ranked([gap, 0.0], [1, 1]) == pytest.approx(2 * math.log(math.cosh(gap / 2)), abs=1e-9)


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_two_responses_are_bradley_and_terry(one, other):
    compared = comparison_loss(tensor([one, other]), tensor([2, 1]), torch.ones(1, 2))
    assert float(compared) == pytest.approx(float(pairwise_reward_loss(tensor(one), tensor(other))), abs=1e-9)
    assert ranked([one, other], [1, 2]) == pytest.approx(float(pairwise_reward_loss(tensor(one), tensor(other))), abs=1e-9)


def test_rankings_are_averaged_and_those_that_say_nothing_do_not_count():
    scores = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double()
    ranks = tensor([1, 2, 3], [2, 1, NAN], [1, NAN, NAN], [NAN, NAN, NAN])
    expected = ranked(scores[0], [1, 2, 3]) + ranked(scores[1, :2], [2, 1])
    assert float(plackett_luce_loss(scores, ranks, ~ranks.isnan())) == pytest.approx(expected / 2, rel=1e-12)
    assert float(plackett_luce_loss(scores, ranks, ~ranks.isnan(), denominator=8)) == pytest.approx(expected / 8, rel=1e-12)


def test_ratings_and_verdicts_against_loops():
    generator = torch.Generator().manual_seed(1)
    scores, ratings = torch.randn(2, 5, 3, generator=generator).double().unbind(0)
    mask = torch.rand(5, 3, generator=generator) > 0.4
    rows = list(zip(scores[mask].tolist(), ratings[mask].tolist(), strict=True))
    squared = [(score - rating) ** 2 for score, rating in rows]
    assert float(rating_loss(scores, ratings, mask)) == pytest.approx(sum(squared) / len(rows), rel=1e-12)
    assert float(rating_loss(scores, ratings, mask, denominator=40)) == pytest.approx(sum(squared) / 40, rel=1e-12)
    good = ratings > 0
    logistic = [math.log(1 + math.exp(-score if rating > 0 else score)) for score, rating in rows]
    assert float(binary_loss(scores, good.double(), mask)) == pytest.approx(sum(logistic) / len(rows), rel=1e-12)
    assert float(binary_loss(tensor(0.0), tensor(1.0), torch.tensor(True))) == pytest.approx(math.log(2), rel=1e-12)


@pytest.mark.parametrize("margin", [True, False])
def test_comparisons_are_the_pairs_of_each_row(margin):
    generator = torch.Generator().manual_seed(5)
    scores, mask = torch.randn(6, 4, generator=generator).double(), torch.rand(6, 4, generator=generator) > 0.3
    ratings = torch.randint(0, 11, (6, 4), generator=generator).double() / 2
    pairs = [(scores[row, i], scores[row, j], ratings[row, i] - ratings[row, j]) for row in range(6) for i in range(4)
             for j in range(4) if mask[row, i] and mask[row, j] and ratings[row, i] - ratings[row, j] >= 1.0]
    better, worse, gaps = (torch.stack(part) for part in zip(*pairs, strict=True))
    expected = float(pairwise_reward_loss(better, worse, gaps if margin else None))
    found = comparison_loss(scores, ratings, mask, minimum_gap=1.0, margin=margin)
    assert len(pairs) > 5 and float(found) == pytest.approx(expected, rel=1e-12)
    assert int(told_apart(ratings, mask, 1.0).sum()) == len(pairs)
    half = comparison_loss(scores, ratings, mask, minimum_gap=1.0, margin=margin, denominator=2 * len(pairs))
    assert float(half) == pytest.approx(expected / 2, rel=1e-12)


@pytest.mark.parametrize("loss", [comparison_loss, plackett_luce_loss, rating_loss, binary_loss])
def test_nothing_behind_the_mask_matters(loss):
    generator = torch.Generator().manual_seed(2)
    scores, mask = torch.randn(6, 4, generator=generator).double(), torch.rand(6, 4, generator=generator) > 0.4
    targets = torch.randint(0, 2, (6, 4), generator=generator).double()
    gradients = []
    for filler in (0.0, NAN, math.inf, -math.inf):
        seen = torch.where(mask, scores, filler).requires_grad_()
        value = loss(seen, torch.where(mask, targets, filler), mask)
        value.backward()
        gradients.append((float(value.detach()), seen.grad))
    for value, gradient in gradients:
        assert value == gradients[0][0] and gradient.equal(gradients[0][1]) and (gradient[~mask] == 0).all()
    nothing = loss(scores.clone().requires_grad_(), targets, torch.zeros_like(mask))
    nothing.backward()
    assert float(nothing.detach()) == 0.0


@pytest.mark.parametrize("loss", [comparison_loss, plackett_luce_loss, rating_loss, binary_loss])
def test_a_batch_may_be_cut_anywhere(loss):
    scores, targets = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(3)).double().unbind(0)
    mask = torch.ones(7, 3).bool()
    whole = loss(scores, targets, mask, denominator=7)
    parts = [loss(scores[part], targets[part], mask[part], denominator=7) for part in (slice(0, 2), slice(2, 7))]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-12)


@pytest.mark.parametrize("loss", [comparison_loss, plackett_luce_loss, rating_loss, binary_loss])
def test_gradients_against_differences(loss):
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(4)).double().requires_grad_()
    targets = tensor([1, 2, 2, 0], [1, 1, 1, 0], [0, 1, NAN, 1])
    assert torch.autograd.gradcheck(lambda scores: loss(scores, targets, ~targets.isnan()), scores)


def test_large_scores_stay_finite():
    scores = tensor([1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]).requires_grad_()
    for loss in (comparison_loss, plackett_luce_loss, binary_loss):
        value = loss(scores, tensor([1, 2, 3], [1, 2, 2]), torch.ones(2, 3).bool())
        assert value.isfinite() and torch.autograd.grad(value, scores)[0].isfinite().all()


def test_aspects_are_mixed_and_members_combined():
    members = mixed(tensor([[1, 2], [3, 4]], [[5, 6], [0, -2]]), tensor(0.25, 0.5))  # [member, sample, aspect]
    assert members.tolist() == [[1.25, 2.75], [4.25, -1.0]]
    assert combined(members, "mean").tolist() == [2.75, 0.875]
    assert combined(members, "worst").tolist() == [1.25, -1.0]
    assert deviation(members).tolist() == [1.5, 1.875]
    assert combined(members, "mean_minus_deviation", 2.0).tolist() == [-0.25, -2.875]
    with pytest.raises(ValueError, match="worst"):
        combined(members, "best")


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=5), st.floats(0, 3))
def test_what_holds_for_every_ensemble(scores, coefficient):
    members = torch.tensor(scores, dtype=torch.float64)[:, None]
    mean, worst = combined(members, "mean"), combined(members, "worst")
    assert worst <= mean + 1e-12 and combined(members, "mean_minus_deviation", coefficient) <= mean
    assert combined(members, "mean_minus_deviation", 0.0) == mean
    slow = sum(scores) / len(scores)
    spread = math.sqrt(sum((score - slow) ** 2 for score in scores) / len(scores))
    assert float(combined(members, "mean_minus_deviation", coefficient)) == pytest.approx(slow - coefficient * spread, abs=1e-9)
    assert combined(members + 3.0, "worst").item() == pytest.approx(worst.item() + 3.0)
    for how in ("mean", "worst", "mean_minus_deviation"):
        assert combined(torch.cat([members, tensor([NAN])]), how).isnan().all()  # a broken member is not hidden
