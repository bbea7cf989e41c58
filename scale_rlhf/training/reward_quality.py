"""How good a reward model is on held-out responses: does it rank as people do, is it rightly sure, does length sway it?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from scale_rlhf.config.supervised import RewardModelSection

BINS = 10


@dataclass(frozen=True)
class Judged:
    """The responses to one prompt, or a pair. Higher is better; NaN: nobody said."""

    scores: list[list[float]]  # [aspects][K], the model's
    targets: list[list[float]]  # [aspects][K], the raters'
    lengths: list[int]  # [K] tokens of each response


def quality(rows: Sequence[Judged], section: RewardModelSection) -> dict[str, Any]:
    """accuracy, calibration_error, pairs and length_correlation, over all aspects, and `report`: all of it, by aspect.

    What cannot be told (no two responses to one prompt, say) is left out. accuracy: share of held-out pairs that the model
    ranks as the raters do, ties half; of ratings and comparisons, pairs that differ by minimum_gap. binary has
    `judged_right` too: the share of responses on the right side of 0. calibration_error: see `calibration`.
    """
    names = section.aspects or ["score"]
    aspects = {name: _aspect(rows, place, section) for place, name in enumerate(names)}
    whole = {key: value for key in ("accuracy", "calibration_error", "judged_right", "length_correlation")
             if (value := _over_aspects(key, aspects.values())) is not None}
    pairs = sum(one["pairs"] for one in aspects.values())
    return {**whole, "pairs": pairs, "report": {"feedback": section.feedback, **whole, "pairs": pairs, "aspects": aspects}}


def calibration(predicted: torch.Tensor, seen: torch.Tensor, low: float, high: float) -> tuple[float, list[dict[str, float]]]:
    """(error, curve) of predictions [n] in [low, high] against what was seen [n].

    The curve: for each of 10 bins of the prediction that is not empty its count, mean prediction and mean of what was seen.
    The error: |mean prediction − mean seen| over the bins, by count (expected calibration error, Guo et al. 2017).
    """
    predicted, seen = predicted.double(), seen.double()
    width = (high - low) or 1.0
    places = ((predicted - low) / width * BINS).long().clamp(0, BINS - 1)
    inside = [places == place for place in range(BINS)]
    curve = [{"count": int(one.sum()), "predicted": float(predicted[one].mean()), "seen": float(seen[one].mean())}
             for one in inside if one.any()]
    return sum(point["count"] * abs(point["predicted"] - point["seen"]) for point in curve) / len(predicted), curve


def correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Pearson's r; None where either does not vary."""
    pair = torch.tensor([list(one), list(other)], dtype=torch.float64)
    if pair.shape[1] < 2 or (pair.std(1) == 0).any():
        return None
    return float(torch.corrcoef(pair)[0, 1])


def _aspect(rows: Sequence[Judged], place: int, section: RewardModelSection) -> dict[str, Any]:
    responses = [one for row in rows for one in zip(row.scores[place], row.targets[place], row.lengths, strict=True)
                 if not math.isnan(one[1])]
    gap = section.minimum_gap if section.feedback in ("comparisons", "ratings") else 0.0
    pairs = torch.tensor([pair for row in rows for pair in _pairs(row, place, gap)], dtype=torch.float64).reshape(-1, 2)
    margins, longer = pairs.unbind(1)
    found: dict[str, Any] = {"responses": len(responses), "pairs": len(pairs)}
    if len(pairs):
        found["accuracy"] = float(_right(margins).mean())
    found |= _calibrated(responses, margins, section.feedback)
    scores, targets, lengths = zip(*responses, strict=True) if responses else ((), (), ())
    if (r := correlation(scores, lengths)) is not None:
        found["length_correlation"] = r
    differ = longer != 0
    if differ.any():  # of pairs of two lengths
        found["longer_is_scored_higher"] = float(_right(margins[differ] * longer[differ]).mean())
        found["longer_is_rated_higher"] = float((longer[differ] > 0).double().mean())
    return found


def _pairs(row: Judged, place: int, gap: float) -> list[tuple[float, int]]:
    """(score of the better less that of the worse, the same of their lengths) of each pair that the raters told apart."""
    scores, targets = row.scores[place], row.targets[place]
    places = range(len(scores))
    return [(scores[i] - scores[j], row.lengths[i] - row.lengths[j]) for i in places for j in places
            if targets[i] > targets[j] and targets[i] - targets[j] >= gap]


def _calibrated(responses: Sequence[tuple], margins: torch.Tensor, feedback: str) -> dict[str, Any]:
    """Of what the feedback makes a prediction of: the rating itself, P(good), or P(the likelier of two wins) in [½, 1]."""
    scores, targets = (torch.tensor([one[place] for one in responses], dtype=torch.float64) for place in (0, 1))
    extra: dict[str, Any] = {}
    if not len(scores if feedback in ("ratings", "binary") else margins):
        return {}
    if feedback == "ratings":
        error, curve = calibration(scores, targets, float(scores.min()), float(scores.max()))
    elif feedback == "binary":
        error, curve = calibration(scores.sigmoid(), targets, 0.0, 1.0)
        extra["judged_right"] = float(_right(scores * (2 * targets - 1)).mean())
    else:
        error, curve = calibration(margins.abs().sigmoid(), _right(margins), 0.5, 1.0)
    return {**extra, "calibration_error": error, "calibration": curve}


def _right(margins: torch.Tensor) -> torch.Tensor:
    return (margins > 0).double() + 0.5 * (margins == 0).double()


def _over_aspects(key: str, aspects: Sequence[dict]) -> float | None:
    """The mean of those aspects that have it, each counting by its pairs; of responses where there are no pairs."""
    found = [(one[key], one["pairs"] or one["responses"]) for one in aspects if key in one]
    total = sum(weight for _, weight in found)
    return sum(value * weight for value, weight in found) / total if total else None
