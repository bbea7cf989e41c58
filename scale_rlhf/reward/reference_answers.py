"""What rewards are normalised with: their mean and deviation on answers that people wrote. Measured once, then kept with the run.

    ppo/reward_moments.json    {"liked": {"answers": 256, "mean": 1.52, "deviation": 0.61}}

A run that goes on takes what is there: with other numbers the same answer would earn another reward than before.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from scale_rlhf.algorithms.shaping import reference_moments
from scale_rlhf.config.reward_sources import reward_sources
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.disk import writing
from scale_rlhf.errors import ConfigError
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.reward.interface import RewardFleet
from scale_rlhf.reward.shaped import Moments, ShapedReward

GROUP = 16  # samples that are scored together


async def settle_moments(
    config: RunConfig, folder: RunFolder, reward: RewardFleet, policy: str, tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Give a started reward the moments that it is normalised with: those of the run's folder, else measured now.

    policy: folder or hub name of the model whose tokens samples are made of. Raises ConfigError where there are too few
    reference answers, or all of them have the same reward.
    """
    wanted = _wanted(config)
    if not wanted or not isinstance(reward, ShapedReward):
        return
    if (kept := kept_moments(config, folder)) is None:
        answers = reference_samples(config, folder, policy, max(wanted.values()))
        raw = await _scored(reward, answers)
        found = {name: {"answers": count, **_moments(name, raw[name][:count], count)} for name, count in wanted.items()}
        _keep(folder, found)
        kept = kept_moments(config, folder)
        await reward.metrics()  # they are not part of the run
        for name, one in found.items():
            tell(f"reward {name} on {one['answers']} reference answers: mean {one['mean']:.4g}, "
                 f"deviation {one['deviation']:.4g}")
    reward.moments = dict(kept)


def kept_moments(config: RunConfig, folder: RunFolder) -> Moments | None:
    """Those that the run has measured, by source; None where it has not, or not of these sources and as many answers."""
    path = _file(folder)
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    if {name: one["answers"] for name, one in found.items()} != _wanted(config):
        return None
    return {name: (one["mean"], one["deviation"]) for name, one in found.items()}


def reference_samples(config: RunConfig, folder: RunFolder, policy: str, count: int) -> list[Sample]:
    """The first `count` answers of data.instructions as the policy would have written them, the end token included."""
    from scale_rlhf.data.chat import load_tokenizer, prompt_ids
    from scale_rlhf.data.sources import sources

    tokenizer = load_tokenizer(policy, config.model)
    rows = sources(config, folder).reference_answers()
    if len(rows) < count:
        raise ConfigError(f"reward.normalise: expected {count} reference answers in data.instructions, found {len(rows)}; "
                          "lower it, or give more")
    made = []
    for place, row in enumerate(rows[:count]):
        asked, answer = row["messages"][:-1], row["messages"][-1]["content"]
        response = np.asarray([*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id], np.int32)
        none = np.zeros(len(response), np.float32)
        prompt = Prompt(-1 - place, -1, np.asarray(prompt_ids(tokenizer, asked), np.int32), {**row, "messages": asked})
        made.append(Sample(prompt, response, none, none.astype(np.int32), ended=True))
    return made


async def _scored(reward: ShapedReward, samples: Sequence[Sample]) -> dict[str, list[float]]:
    """A group after the other: the servers have nothing else to do."""
    scores: dict[str, list[float]] = {name: [] for name in reward.sections}
    for start in range(0, len(samples), GROUP):
        for name, part in (await reward.raw(samples[start : start + GROUP], fixed=True, group=start // GROUP)).items():
            scores[name] += part
    return scores


def _moments(name: str, scores: Sequence[float], count: int) -> dict[str, float]:
    try:
        mean, deviation = reference_moments(torch.tensor(scores, dtype=torch.float64))
    except ValueError as error:
        why = f"normalise: the reward {name} says nothing of the {count} reference answers ({error})"
        raise ConfigError(f"{why}, so there is nothing to divide by; leave normalise out of this reward") from None
    return {"mean": mean, "deviation": deviation}


def _wanted(config: RunConfig) -> dict[str, int]:
    """Answers that each source is normalised on, of those that are."""
    return {key.rpartition(".")[2]: source.normalise for key, source in reward_sources(config).items() if source.normalise}


def _keep(folder: RunFolder, found: dict) -> None:
    """Whole or absent."""
    path = _file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    with writing(path):
        beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, path)


def _file(folder: RunFolder) -> Path:
    return folder.stage("ppo") / "reward_moments.json"
