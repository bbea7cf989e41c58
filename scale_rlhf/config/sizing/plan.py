"""Does a run fit the GPUs that it is planned for: a byte table of every role, and what is wrong with it.

Planned for are `cluster.nodes` nodes of `cluster.gpus_per_node` GPUs with `cluster.gpu_gb` each. Arithmetic alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scale_rlhf.config.resources import asks
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.config.sizing.models import Models, models, roles
from scale_rlhf.config.sizing.needs import PARTS, Need, need

GB = 1e9
_WHOLE = 10_000  # parts of a GPU that Ray can tell apart


@dataclass(frozen=True)
class Problem:
    """roles: sections whose processes do not fit, together where there are several; none: the cluster is too small."""

    stage: str
    roles: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class StagePlan:
    stage: str
    gpus: float  # that the stage asks for
    needs: list[Need]
    problems: list[Problem]


@dataclass(frozen=True)
class Plan:
    """models: the shapes that it was made with; they stay the same whatever else is changed."""

    stages: list[StagePlan]
    models: Models

    @property
    def problems(self) -> list[Problem]:
        return [problem for stage in self.stages for problem in stage.problems]


def plan(config: RunConfig, stages: Sequence[str], known: Models | None = None) -> Plan:
    """The plan of those stages that use GPUs and whose models are known.

    known: the models, where they have been looked at already.
    Raises ConfigError where model.shapes names what is not there.
    """
    known = known or models(config, stages)
    planned = [stage for stage in stages if any(role in known.shapes for role in roles(config, stage))]
    return Plan([_stage(config, stage, known) for stage in planned], known)


def _stage(config: RunConfig, stage: str, known: Models) -> StagePlan:
    needs = [need(config, role, known.shapes[role]) for role in roles(config, stage) if role in known.shapes]
    gpus = sum(ask.processes * ask.gpus for ask in asks(config, stage))
    return StagePlan(stage, gpus, needs, [*_too_few(config, stage, gpus), *_too_small(config, stage, needs)])


def _too_few(config: RunConfig, stage: str, gpus: float) -> list[Problem]:
    cluster, rollout = config.cluster, config.rollout
    if cluster.gpus_per_node is None:
        return []
    found, there = [], cluster.nodes * cluster.gpus_per_node
    if gpus > there + 1e-6:
        asked = "; ".join(map(str, asks(config, stage)))
        found.append(Problem(stage, (), f"stage {stage} asks for {gpus:g} GPUs, and cluster.nodes × cluster.gpus_per_node is "
                                        f"{cluster.nodes} × {cluster.gpus_per_node} = {there}. It asks: {asked}"))
    ranks = rollout.tensor_parallel * rollout.gpus
    if stage in ("best_of_n", "ppo") and ranks > cluster.gpus_per_node:
        text = f"rollout.tensor_parallel: {rollout.tensor_parallel} ranks of an engine run on one node and take {ranks:g} GPUs"
        found.append(Problem(stage, ("rollout",), f"{text}; cluster.gpus_per_node is {cluster.gpus_per_node}"))
    return found


def _too_small(config: RunConfig, stage: str, needs: Sequence[Need]) -> list[Problem]:
    if config.cluster.gpu_gb is None:
        return []
    gpu = config.cluster.gpu_gb * GB
    found = []
    for one in needs:
        share = config.rollout.gpu_memory_utilization * gpu
        if one.least > share:
            text = (f"rollout does not fit: weights, forwards and the cache of one sequence take {one.least / GB:.1f} GB a GPU, "
                    f"and rollout.gpu_memory_utilization gives {share / GB:.1f} of {gpu / GB:g}")
            found.append(Problem(stage, (one.role,), text))
        elif one.total > gpu:
            found.append(Problem(stage, (one.role,), f"{one.role} does not fit: {_sum(one)} a GPU, and a GPU has {gpu / GB:g}"))
    alone = {role for problem in found for role in problem.roles}
    heaviest = _heaviest([one for one in needs if one.role not in alone])
    if sum(one.total for one in heaviest) > gpu:
        named = " + ".join(f"{one.role} {one.total / GB:.1f}" for one in heaviest)
        shared = tuple(dict.fromkeys(one.role for one in heaviest))
        text = f"do not fit on one GPU, which they may share: {named} GB, and a GPU has {gpu / GB:g}"
        found.append(Problem(stage, shared, f"{' and '.join(shared)} {text}"))
    return found


def _heaviest(needs: Sequence[Need]) -> list[Need]:
    """The processes that weigh most together among those that Ray may put on one GPU, their shares adding up to at most 1."""
    best: dict[int, list[Need]] = {0: []}  # by parts of the GPU that are taken
    for one in needs:
        parts = round(one.gpus * _WHOLE)
        if not 0 < parts < _WHOLE:
            continue
        for _ in range(min(one.processes, _WHOLE // parts)):
            for taken, chosen in list(best.items()):
                more = taken + parts
                if more <= _WHOLE and _weight([*chosen, one]) > _weight(best.get(more, [])):
                    best[more] = [*chosen, one]
    return max(best.values(), key=_weight)


def _weight(needs: Sequence[Need]) -> int:
    return sum(one.total for one in needs)


def _sum(one: Need) -> str:
    parts = [f"{name} {getattr(one, name) / GB:.1f}" for name in PARTS if getattr(one, name) >= 0.05 * GB]
    return f"{' + '.join(parts)} = {one.total / GB:.1f} GB"
