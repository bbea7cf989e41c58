"""Judges of the evaluation: each scores every model's answers to the sets that it judges, or compares them with the anchor's.

A judge is a reward source (reward/make.py): a model, a function or a service, in processes of its own, one judge after another.
One that compares is shown each pair in both orders. What verifies a prompt set is asked in the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from scale_rlhf.errors import RunError, UserError
from scale_rlhf.experience.sample import Sample

if TYPE_CHECKING:
    from scale_rlhf.config.schema import RunConfig, ScoreSource
    from scale_rlhf.reward.interface import RewardFleet

Answered = dict[str, list[Sample]]  # by model, an answer to each prompt of a set in order


@dataclass
class Judged:
    """What a judge says of one set. Of a judge that scores: scores and aspects (means), by model. Of one that compares: by model
    but the anchor, its preference for the answer shown first, the model's answer first and the anchor's answer first.
    """

    scores: dict[str, list[float]] = field(default_factory=dict)
    aspects: dict[str, dict[str, float]] = field(default_factory=dict)
    preferences: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)


def ask_judges(config: RunConfig, sets: dict[str, Answered], texts: dict[str, dict[str, list[str]]], anchor: str,
               policy: str) -> dict[str, dict[str, Judged]]:
    """By judge (the path of its section) and set, what it says. Blocks; Ray must be up.

    texts: of the answers, for judges that compare. policy: folder or hub name of the model whose tokens the samples are made of.
    Raises RunError or ConfigError that begins with the judge's path.
    """
    from scale_rlhf.telemetry.progress import stage_progress

    plan = judged_sets(config)
    if not plan:
        return {}
    total = sum(_calls(source, sets[name], anchor) for source, names in plan.values() for name in names)

    async def all_of_them() -> dict[str, dict[str, Judged]]:
        found = {}
        with stage_progress("evaluate: judges", total) as progress:
            for key, (source, names) in plan.items():
                asking = _Asking(config, key, source, anchor, policy, progress)
                found[key] = await asking.judge({name: (sets[name], texts[name]) for name in names})
        return found

    return asyncio.run(all_of_them())


def judged_sets(config: RunConfig) -> dict[str, tuple[ScoreSource, list[str]]]:
    """Every judge by the path of its section, and the sets whose answers it is given; none for a judge that no set names."""
    from scale_rlhf.config.judge_checks import HELD_OUT

    section = config.evaluation
    plan: dict[str, tuple[ScoreSource, list[str]]] = {}
    for name, judge in section.judges.items():
        named = [one for one, source in section.prompt_sets.items()
                 if (name in source.judges if source.judges is not None else not source.verify)]
        plan[f"evaluation.judges.{name}"] = judge, [HELD_OUT, *named]
    for name, source in section.prompt_sets.items():
        if source.verify:
            plan[f"evaluation.prompt_sets.{name}.verify"] = source.verify, [name]
    return plan


def compared(samples: Sequence[Sample], others: Sequence[str]) -> list[Sample]:
    """The samples with the answers that they are compared with in their rows, as `other`."""
    return [replace(sample, prompt=replace(sample.prompt, row={**sample.prompt.row, "other": other}))
            for sample, other in zip(samples, others, strict=True)]


def checked_shares(numbers: Sequence[float], key: str, what: str) -> list[float]:
    """The numbers, if all are in [0, 1]. Raises RunError at `key` that quotes the first that is not."""
    if outside := [number for number in numbers if not 0 <= number <= 1]:
        raise RunError(f"{key}: expected {what}; it returned {outside[0]:g}")
    return list(numbers)


@dataclass
class _Asking:
    """One judge."""

    config: RunConfig
    key: str
    source: ScoreSource
    anchor: str
    policy: str
    progress: object

    async def judge(self, sets: dict[str, tuple[Answered, dict[str, list[str]]]]) -> dict[str, Judged]:
        from scale_rlhf.reward.make import make_judge

        try:
            fleet = make_judge(self.config, self.source, policy=self.policy)
            try:
                await fleet.start()
                ask = self._compare if _compares(self.source) else self._score
                return {name: await ask(fleet, answers, texts) for name, (answers, texts) in sets.items()}
            finally:
                fleet.close()
        except UserError as error:
            said = str(error)
            raise type(error)(said if said.startswith(self.key) else f"{self.key}: {said}") from error

    async def _score(self, fleet: RewardFleet, answers: Answered, texts: dict[str, list[str]]) -> Judged:
        judged = Judged()
        for model, samples in answers.items():
            scores = await self._in_groups(fleet, samples)
            if self.key.endswith(".verify"):
                scores = checked_shares(scores, self.key, "how right an answer is, from 0 to 1")
            judged.scores[model] = scores
            marks = {name: value for name, value in (await fleet.metrics()).items() if name.startswith("aspect_")}
            judged.aspects[model] = {name.removeprefix("aspect_").removesuffix("_mean"): value for name, value in marks.items()}
        return judged

    async def _compare(self, fleet: RewardFleet, answers: Answered, texts: dict[str, list[str]]) -> Judged:
        judged = Judged()
        for model in (name for name in answers if name != self.anchor):
            first, second = [
                checked_shares(await self._in_groups(fleet, compared(answers[one], texts[other])), self.key,
                               "how far it prefers the response to row['other'], from 0 to 1")
                for one, other in ((model, self.anchor), (self.anchor, model))
            ]
            judged.preferences[model] = first, second
        return judged

    async def _in_groups(self, fleet: RewardFleet, samples: Sequence[Sample]) -> list[float]:
        from scale_rlhf.stages.evaluation_scoring import in_groups

        async def compute(part: Sequence[Sample], group: int) -> list[float]:
            return await fleet.score(part, fixed=True, group=group)

        return await in_groups(samples, self.source, compute, self.progress)


def _compares(source: ScoreSource) -> bool:
    return getattr(source, "pairwise", False)


def _calls(source: ScoreSource, answers: Answered, anchor: str) -> int:
    """Samples that are sent to a judge."""
    if _compares(source):
        return 2 * sum(len(samples) for model, samples in answers.items() if model != anchor)
    return sum(map(len, answers.values()))
