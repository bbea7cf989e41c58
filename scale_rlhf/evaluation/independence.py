"""Is a judge independent of what the run trained against? A model that learned to please a judge is not to be judged by it."""

from __future__ import annotations

import filecmp
import os
from pathlib import Path
from typing import TYPE_CHECKING

from scale_rlhf.config.reward_sources import judge_sources, outside, reward_sources

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scale_rlhf.config.schema import RunConfig, ScoreSource

REWARDED = ("ppo", "best_of_n")  # stages that learn from the reward


def trained_against(config: RunConfig, made: str | None, models: Iterable[str]) -> dict[str, str]:
    """Key of each judge that is the reward of this run: what it is. {} where none of `models` learned from a reward.

    made: folder of the reward model that the run made. A copy of a model in another folder is the same model.
    """
    if not set(REWARDED) & set(models):
        return {}
    rewards = list(reward_sources(config).values())
    return {key: what for key, judge in judge_sources(config).items() if key.startswith("evaluation.judges.")
            and (what := next(filter(None, (_shared(judge, reward, made) for reward in rewards)), None))}


def _shared(judge: ScoreSource, reward: ScoreSource, made: str | None) -> str | None:
    if judge.url:
        return "the service" if judge.url == reward.url else None
    if judge.function:
        return "the function" if judge.function == reward.function else None
    theirs = [] if outside(reward) else [path for path in (reward.model or made, *reward.ensemble) if path]
    ours = [judge.model, *judge.ensemble]
    return "the model" if any(same_model(one, other) for one in ours if one for other in theirs) else None


def same_model(one: str, other: str) -> bool:
    """Whether two folders or hub names are one model: the same name, the same folder, or weights that are equal byte by byte."""
    if one == other:
        return True
    if not (os.path.isdir(one) and os.path.isdir(other)):
        return False
    if os.path.samefile(one, other):
        return True
    weights = [sorted(path.name for path in Path(folder).glob("*.safetensors")) for folder in (one, other)]
    return bool(weights[0]) and weights[0] == weights[1] and all(
        filecmp.cmp(os.path.join(one, name), os.path.join(other, name), shallow=False)  # read no further than where they differ
        for name in weights[0]
    )
