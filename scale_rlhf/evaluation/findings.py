"""From answers and what judges say of them to numbers with their intervals, as evaluation/table.json has them.

A model's numbers are {measure: value, …, "intervals": {measure: [low, high]}, "counts": {measure: prompts}}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from scale_rlhf.evaluation.behaviour import REFUSAL, UNKNOWN, behaviour, finder
from scale_rlhf.evaluation.diversity import distinct, self_bleu
from scale_rlhf.evaluation.statistics import Estimate, agreement, both_orders, mean, position_bias, share, wins

if TYPE_CHECKING:
    from scale_rlhf.config.schema import EvaluationSection
    from scale_rlhf.evaluation.judges import Judged

Texts = dict[str, list[str]]  # by model, an answer to each prompt in order


def recorded(estimates: Mapping[str, Estimate | None]) -> dict:
    """The numbers of one model, without those that there are not."""
    there = {name: one for name, one in estimates.items() if one is not None}
    return {name: one.value for name, one in there.items()} | {
        "intervals": {name: [one.low, one.high] for name, one in there.items() if one.low is not None},
        "counts": {name: one.count for name, one in there.items()},
    }


def joined(numbers: dict, more: dict) -> dict:
    """Two records of one model as one."""
    inner = {key: {**numbers.get(key, {}), **more.get(key, {})} for key in ("intervals", "counts")}
    return {**numbers, **more, **inner}


@dataclass(frozen=True)
class Detectors:
    """Whether an answer refuses, and whether it admits that it does not know, by its text."""

    refuses: Callable[[str], bool]
    admits: Callable[[str], bool]


def detectors(section: EvaluationSection) -> Detectors:
    """By the patterns of the configuration. Raises ConfigError for one that is none."""
    return Detectors(finder(section.refusal_pattern, REFUSAL, "evaluation.refusal_pattern"),
                     finder(section.unknown_pattern, UNKNOWN, "evaluation.unknown_pattern"))


def behaviours(detect: Detectors, should: Sequence[str | None], texts: Texts) -> dict[str, dict[str, Estimate]]:
    """By model, refusals and admitted ignorance, right and wrong: shares of the prompts that each is about."""
    return {model: {name: share(values) for name, values in behaviour(should, said, detect.refuses, detect.admits).items()}
            for model, said in texts.items()}


def diversity(several: dict[str, list[list[str]]]) -> dict[str, dict[str, Estimate | None]]:
    """By model: distinct_1, distinct_2 and self_bleu of the answers to one prompt, averaged over prompts."""
    measures = {"distinct_1": partial(distinct, n=1), "distinct_2": partial(distinct, n=2), "self_bleu": self_bleu}
    return {model: {name: mean([value for texts in answers if (value := of(texts)) is not None]) for name, of in measures.items()}
            for model, answers in several.items()}


def verdict(judged: Judged, anchor: str) -> dict:
    """What one judge found of one set: {"pairwise", "models": {model: numbers}}.

    Of a judge that compares also position_bias, how far it prefers what it is shown first, and agreement, the share of pairs
    that both orders decide alike.
    """
    models: dict[str, dict] = {}
    for model, scores in judged.scores.items():
        won = None if model == anchor else share(wins(scores, judged.scores[anchor]))
        models[model] = recorded({"score": mean(scores), "win_rate": won}) | {"aspects": judged.aspects.get(model, {})}
    for model, (first, second) in judged.preferences.items():
        models[model] = recorded({"win_rate": share(both_orders(first, second))})
    found = {"pairwise": not judged.scores, "models": models}
    if judged.preferences:
        pairs = list(judged.preferences.values())
        found |= recorded({
            "position_bias": mean([bias for first, second in pairs for bias in position_bias(first, second)]),
            "agreement": share([same for first, second in pairs for same in agreement(first, second)]),
        })
    return found


def prompt_set(
    detect: Detectors, should: Sequence[str | None], texts: Texts, judged: dict[str, Judged], right: Judged | None,
    anchor: str,
) -> dict:
    """A set's part of the table: {"prompts", "models": {model: numbers}, "judges": {judge: verdict}}. right: what verifies it."""
    models = {}
    for model, shares in behaviours(detect, should, texts).items():
        models[model] = recorded({"right": share(right.scores[model]) if right else None, **shares})
    return {"prompts": len(should), "models": models, "judges": {name: verdict(one, anchor) for name, one in judged.items()}}
