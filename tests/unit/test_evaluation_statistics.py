"""Intervals against published values and exact enumeration; wins, orders and diversity against plain loops."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scale_rlhf.evaluation.diversity import bleu, clipped_matches, distinct, self_bleu, words
from scale_rlhf.evaluation.statistics import (
    agreement,
    bootstrap,
    both_orders,
    mean,
    position_bias,
    share,
    wilson,
    wins,
)

# Newcombe 1998, Statistics in Medicine 17: 857-872, table I, method 3 (score without continuity correction).
NEWCOMBE = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
unit = st.floats(0, 1)


@pytest.mark.parametrize(("successes", "count", "low", "high"), NEWCOMBE)
def test_wilson_gives_newcombes_table(successes, count, low, high):
    assert wilson(successes, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_where_the_score_test_turns(case):
    """By its definition: at each end the observed share lies z standard errors, of that end, away."""
    successes, count = case
    share_seen = successes / count
    for end in wilson(successes, count):
        assert abs(share_seen - end) == pytest.approx(1.959963985 * math.sqrt(end * (1 - end) / count), abs=1e-6)


def test_the_bootstrap_is_that_of_all_resamples():
    """Of four values there are 256 draws: the quantiles of their means are known exactly."""
    values = [0.0, 1.0, 3.0, 7.0]
    means = sorted(sum(draw) / 4 for draw in product(values, repeat=4))
    exact = means[math.floor(0.025 * 256)], means[math.ceil(0.975 * 256) - 1]
    assert bootstrap(values, resamples=40_000) == pytest.approx(exact, abs=0.26)  # the means are a quarter apart
    many = np.random.default_rng(1).random(50)
    assert bootstrap(many) == bootstrap(many) != bootstrap(many, seed=1)


def test_the_bootstrap_is_the_normal_interval_where_that_holds():
    values = np.random.default_rng(0).normal(5, 2, 800)
    half = 1.96 * values.std() / math.sqrt(800)
    assert bootstrap(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_the_bootstrap_covers_what_it_says():
    """Of 300 evaluations of 60 prompts, 95 in a hundred have the true mean in their interval, give or take."""
    random = np.random.default_rng(5)
    covered = sum(low <= 0.5 <= high for low, high in (bootstrap(random.random(60), resamples=400) for _ in range(300)))
    assert 0.90 <= covered / 300 <= 0.99


def test_parts_of_the_draws_are_all_of_them(monkeypatch):
    from scale_rlhf.evaluation import statistics

    monkeypatch.setattr(statistics, "_AT_ONCE", 100)
    low, high = bootstrap([0.0, 1.0] * 50, resamples=1001)
    assert 0.35 < low < 0.45 and 0.55 < high < 0.65


def test_one_prompt_says_nothing_of_the_others():
    assert mean([]) is None and share([]) is None
    assert (mean([3.0]).value, mean([3.0]).low, share([1.0]).high) == (3.0, None, None)
    assert mean([1.0, 3.0]).count == 2
    with pytest.raises(ValueError, match="found 1.5"):
        share([0.5, 1.5])


@given(st.lists(unit, min_size=2, max_size=30))
def test_a_share_of_halves_is_never_too_sure(values):
    """Its interval is that of zeros and ones with the same mean, whose variance is the largest there is."""
    found = share(values)
    assert found.low <= found.value <= found.high
    variance = sum((value - found.value) ** 2 for value in values) / len(values)
    assert variance <= found.value * (1 - found.value) + 1e-12


@given(st.lists(st.tuples(unit, unit), min_size=1, max_size=20))
def test_orders_against_a_plain_loop(pairs):
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    for place, (a, b) in enumerate(pairs):
        for_the_model = 0.5 * (a + (1 - b))
        for_the_first = 0.5 * (a + b) - 0.5
        assert both_orders(first, second)[place] == pytest.approx(for_the_model)
        assert position_bias(first, second)[place] == pytest.approx(for_the_first)
        named = lambda p: "a" if p > 0.5 else "b" if p < 0.5 else "tie"  # noqa: E731
        swapped = {"a": "b", "b": "a", "tie": "tie"}[named(b)]
        if (b - 0.5 == 0) == ((1 - b) - 0.5 == 0):  # rounding aside
            assert agreement(first, second)[place] == (named(a) == swapped)


def test_a_judge_that_always_prefers_the_first_says_nothing():
    first = second = [1.0] * 10
    assert both_orders(first, second) == [0.5] * 10
    assert position_bias(first, second) == [0.5] * 10 and agreement(first, second) == [0.0] * 10


def test_wins_count_ties_half():
    assert wins([1, 2, 3, 0], [0, 2, 4, 0]) == [1, 0.5, 0, 0.5]
    assert share(wins([1, 2, 3, 0], [0, 2, 4, 0])).value == 0.5


# Diversity


def test_clipped_precision_of_the_paper():
    """Papineni et al. 2002, section 2.1: 2/7 and 17/18 unigrams; 10/17 and 1/13 bigrams."""
    references = [words("The cat is on the mat."), words("There is a cat on the mat.")]
    assert clipped_matches(words("the the the the the the the"), references, 1) == (2, 7)
    better = "It is a guide to action which ensures that the military always obeys the commands of the party"
    worse = "It is to insure the troops forever hearing the activity guidebook that party direct"
    three = [words(text) for text in (
        "It is a guide to action that ensures that the military will forever heed Party commands",
        "It is the guiding principle which guarantees the military forces always being under the command of the Party",
        "It is the practical guide for the army always to heed the directions of the party")]
    assert clipped_matches(words(better), three, 1) == (17, 18)
    assert clipped_matches(words(better), three, 2) == (10, 17)
    assert clipped_matches(words(worse), three, 2) == (1, 13)


def slow_bleu(said, references):
    """By its definition, count by count; 1 is added from bigrams on."""
    score, orders = 1.0, 0
    for n in range(1, 5):
        own = [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]
        if not own:
            continue
        matched = 0
        for gram in set(own):
            most = max(sum(tuple(r[i : i + n]) == gram for i in range(len(r) - n + 1)) for r in references)
            matched += min(own.count(gram), most)
        if n == 1 and not matched:
            return 0.0
        score *= (matched + (n > 1)) / (len(own) + (n > 1))
        orders += 1
    nearest = sorted(references, key=lambda r: (abs(len(r) - len(said)), len(r)))[0]
    penalty = 1.0 if len(said) >= len(nearest) else math.exp(1 - len(nearest) / len(said))
    return penalty * score ** (1 / orders)


sentence = st.lists(st.sampled_from("abcd"), min_size=1, max_size=9)


@given(sentence, st.lists(sentence, min_size=1, max_size=3))
def test_bleu_against_a_plain_loop(said, references):
    assert bleu(said, references) == pytest.approx(slow_bleu(said, references))


@given(st.lists(sentence.map(" ".join), min_size=2, max_size=4))
def test_self_bleu_and_distinct_against_plain_loops(texts):
    cut = [text.split() for text in texts]
    expected = sum(slow_bleu(one, cut[:i] + cut[i + 1 :]) for i, one in enumerate(cut)) / len(cut)
    assert self_bleu(texts) == pytest.approx(expected)
    for n in (1, 2):
        grams = [tuple(one[i : i + n]) for one in cut for i in range(len(one) - n + 1)]
        assert distinct(texts, n) == (len(set(grams)) / len(grams) if grams else None)


def test_the_ends_of_the_scales():
    same, other = ["Paris is the capital."] * 3, ["one two three", "four five six"]
    assert self_bleu(same) == pytest.approx(1.0) and self_bleu(other) == 0.0
    assert distinct(same, 1) == pytest.approx(1 / 3) and distinct(other, 2) == 1.0
    assert self_bleu(["a"]) is None and distinct([""], 1) is None
    assert self_bleu(["", ""]) == 1.0 and self_bleu(["", "a"]) == 0.0
    assert words("It's Paris, yes!") == ["it", "'", "s", "paris", ",", "yes", "!"]
