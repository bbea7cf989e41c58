"""Accuracy, calibration and length of a reward model, on responses whose numbers can be worked out by hand."""

import json
import math
import random

import pytest
import torch

from scale_rlhf.config.supervised import RewardModelSection
from scale_rlhf.telemetry.reward_report import reward_section
from scale_rlhf.training.reward_quality import Judged, calibration, correlation, quality

NAN = math.nan


def judged(scores, targets, lengths):
    return Judged([scores], [targets], lengths)


def told(rows, feedback, **settings):
    return quality(rows, RewardModelSection(feedback=feedback, **settings))


def test_pairs_that_are_told_apart_count_and_ties_count_half():
    rows = [judged([3.0, 1.0, 1.0], [4.0, 2.0, 4.2], [5, 6, 7])]  # 4.0 and 4.2 are nearer than the gap
    said = told(rows, "ratings", minimum_gap=0.5)
    assert (said["pairs"], said["accuracy"]) == (2, 0.75)  # 4.0 over 2.0 right; 4.2 over 2.0 a tie
    assert told(rows, "ratings", minimum_gap=0.1)["pairs"] == 3
    ranked = told([judged([3.0, 1.0, 2.0], [-1.0, -2.0, -2.0], [5, 6, 7])], "rankings")
    assert (ranked["pairs"], ranked["accuracy"]) == (2, 1.0)  # the tie is no pair


def test_a_calibrated_model_has_no_error_and_a_sure_one_that_errs_has_much():
    draw = random.Random(0)
    margins = [draw.gauss(0, 2) for _ in range(20_000)]
    pairs = [judged([margin, 0.0], [1.0, 0.0] if draw.random() < 1 / (1 + math.exp(-margin)) else [0.0, 1.0], [3, 3])
             for margin in margins]
    assert told(pairs, "pairs")["calibration_error"] < 0.02
    sure = [Judged([[10 * score for score in row.scores[0]]], row.targets, row.lengths) for row in pairs]
    assert told(sure, "pairs")["calibration_error"] > 0.1
    assert told(sure, "pairs")["accuracy"] == told(pairs, "pairs")["accuracy"]


def test_the_calibration_curve_by_hand():
    error, curve = calibration(torch.tensor([0.05, 0.15, 0.16, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0]), 0.0, 1.0)
    assert [point["count"] for point in curve] == [1, 2, 1]
    assert curve[1]["predicted"] == pytest.approx(0.155) and curve[1]["seen"] == 0.5
    assert error == pytest.approx((0.05 + 2 * 0.345 + 0.0) / 4)


def test_ratings_are_calibrated_in_their_own_unit():
    said = told([judged([1.0, 2.0, 4.0], [1.5, 2.5, 4.5], [3, 4, 5])], "ratings")
    assert said["calibration_error"] == pytest.approx(0.5)


def test_good_and_bad():
    said = told([judged([2.0, -1.0], [1.0, 0.0], [4, 4]), judged([1.0], [0.0], [4])], "binary")
    assert (said["accuracy"], said["pairs"], said["judged_right"]) == (1.0, 1, pytest.approx(2 / 3))
    assert "length_correlation" not in said  # all are of one length
    alone = told([judged([2.0], [1.0], [4])], "binary")
    assert alone["pairs"] == 0 and "accuracy" not in alone and alone["judged_right"] == 1.0


def test_length():
    assert correlation([1.0, 2.0, 3.0], [2, 4, 6]) == pytest.approx(1.0)
    assert correlation([1.0, 2.0, 3.0], [5, 5, 5]) is None and correlation([1.0], [2]) is None
    rows = [judged([9.0, 1.0], [1.0, 0.0], [9, 2]), judged([7.0, 1.0], [0.0, 1.0], [7, 1])]
    report = told(rows, "pairs")["report"]["aspects"]["score"]
    assert report["longer_is_scored_higher"] == 1.0 and report["longer_is_rated_higher"] == 0.5
    assert report["length_correlation"] > 0.9


def test_aspects_are_told_one_by_one_and_together():
    rows = [Judged([[2.0, 1.0], [1.0, 2.0]], [[5.0, 1.0], [4.0, 2.0]], [3, 4]),
            Judged([[1.0, 2.0], [0.0, 0.0]], [[1.0, 5.0], [NAN, NAN]], [5, 4])]
    said = told(rows, "ratings", aspects=["helpful", "honest"])
    aspects = said["report"]["aspects"]
    assert {name: (one["accuracy"], one["pairs"]) for name, one in aspects.items()} == {"helpful": (1.0, 2), "honest": (0.0, 1)}
    assert said["accuracy"] == pytest.approx(2 / 3) and said["pairs"] == 3


def test_what_it_tells_goes_through_json_into_the_report():
    rows = [Judged([[2.0, 1.0]], [[5.0, 1.0]], [3, 4])]
    said = told(rows, "ratings", aspects=["honest"])
    page = reward_section(json.loads(json.dumps(said["report"])))
    assert "honest" in page and "<svg" in page and "predicted rating" in page
    assert reward_section({}) == ""
    nothing = told([Judged([[1.0]], [[NAN]], [3])], "ratings")
    assert nothing["pairs"] == 0 and "<svg" not in reward_section(nothing["report"])
