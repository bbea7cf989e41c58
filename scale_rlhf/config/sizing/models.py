"""Which model each role of a run holds: as stages/models.py chooses, but before any stage has made one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scale_rlhf.config.one_base import policy_serves_reference
from scale_rlhf.config.reward_sources import outside
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.config.sizing.parameters import Head
from scale_rlhf.config.sizing.shapes import Shape, UnknownShape, shape_of
from scale_rlhf.config.supervised import SUPERVISED

HEADS: dict[str, Head] = {"reward_model": "scalar", "reward": "scalar", "value": "scalar"}  # the others: language


@dataclass(frozen=True)
class Models:
    """Shapes by the section of a role. unknown: what is not planned, and why."""

    shapes: dict[str, Shape]
    unknown: list[str]


def roles(config: RunConfig, stage: str) -> list[str]:
    """Sections of the roles of a stage that compute on GPUs with a model of their own."""
    served = not (config.reward.mix or outside(config.reward))
    if stage == "best_of_n":
        names = ["rollout", *(["reward"] if served else []), "best_of_n"]
    elif stage != "ppo":
        names = [SUPERVISED[stage]] if stage in SUPERVISED else []
    else:
        reference = [] if policy_serves_reference(config) else ["reference"]
        names = ["rollout", *(["reward"] if served else []), *reference, "policy", *(["value"] if config.ppo.critic else [])]
    return [name for name in names if getattr(config, name).gpus]


def models(config: RunConfig, stages: Sequence[str]) -> Models:
    """The shape of every role on GPUs. Raises ConfigError where model.shapes names what is not there."""
    found: dict[str, Shape] = {}
    unknown: dict[str, list[str]] = {}  # roles by reason
    for role in dict.fromkeys(name for stage in stages for name in roles(config, stage)):
        key, path = next(_starts(config, role))
        try:
            found[role] = shape_of(config, path, key)
        except UnknownShape as why:
            unknown.setdefault(str(why), []).append(role)
    return Models(found, [f"not planned: the memory of {', '.join(names)}: {why}" for why, names in unknown.items()])


def _starts(config: RunConfig, role: str) -> Iterator[tuple[str, str | None]]:
    """(key, folder or hub name; None for a model from scratch) of what a role starts from, the nearest first."""
    if role in ("rollout", "base"):
        before = {"rollout": "policy", "base": None}[role]
    else:
        if path := getattr(config, role).model:
            yield f"{role}.model", path
        value = "policy" if config.value.initial == "policy" else "reward"
        tuned = "sft" if "sft" in config.run.stages else None
        before = {"reference": "policy", "reward": "reward_model", "value": value, "policy": tuned, "reward_model": tuned,
                  "best_of_n": tuned, "dpo": tuned, "sft": None}[role]
    if before is None:
        yield "model.path", config.model.path
    else:
        yield from _starts(config, before)
