"""What would make a run fit that does not: changes of the configuration, each tried on the arithmetic before it is told.

Applied together, the first cures of all problems make the run fit.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import ceil

from scale_rlhf.config.roles import FrozenRole, Optimisation
from scale_rlhf.config.schema import RolloutSection, RunConfig
from scale_rlhf.config.sizing import engine
from scale_rlhf.config.sizing.models import Models
from scale_rlhf.config.sizing.needs import longest_sample
from scale_rlhf.config.sizing.plan import Plan, Problem, plan
from scale_rlhf.config.supervised import SupervisedSection

_TOLD = 3  # cures of one problem
_TOGETHER = 4  # keys that one cure changes at most
_MOST_WORKERS = 4096
_LARGEST_GPU = 10_000  # GB
SHARE = "rollout.gpu_memory_utilization"
_SHARES = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # of a GPU, for an engine

Cure = dict[str, object]  # values by key


@dataclass(frozen=True)
class Cured:
    """cures: the mildest first; empty where nothing that was tried helps. before: the cure of a problem before this one does."""

    problem: Problem
    cures: list[Cure]
    before: bool = False


def cured(config: RunConfig, found: Plan) -> list[Cured]:
    """Every problem of a plan, with its cures. Each is sought on what the first cures of those before it leave."""
    stages, told = [stage.stage for stage in found.stages], []
    for problem in found.problems:
        if problem.text not in [left.text for left in plan(config, stages, found.models).problems]:
            told.append(Cured(problem, [], before=True))
            continue
        cures = list(_cures(config, stages, problem, found.models))[:_TOLD]
        told.append(Cured(problem, cures))
        config = applied(config, cures[0]) if cures else config
    return told


def applied(config: RunConfig, cure: Cure) -> RunConfig:
    """A copy of the configuration with those values."""
    changed = config.model_copy(deep=True)
    for key, value in cure.items():
        section, name = key.split(".")
        setattr(getattr(changed, section), name, value)
    return changed


def shown(cure: Cure) -> str:
    """As overrides for the command line."""
    return " ".join(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in cure.items())


def _cures(config: RunConfig, stages: Sequence[str], problem: Problem, known: Models) -> Iterator[Cure]:
    """With the GPUs that are planned for; where those do not suffice, with more nodes; at last with larger GPUs."""
    stage = [problem.stage]  # no other is changed for the worse: they share but the cluster's size
    before = len(plan(config, stage, known).problems)

    def works(cure: Cure) -> bool:
        left = plan(applied(config, cure), stage, known).problems
        return len(left) < before and not any(set(one.roles) & set(problem.roles) for one in left)

    def with_nodes(cure: Cure) -> Cure:
        return cure | _nodes(applied(config, cure), stages, known)

    found = list(_search(_knobs(config, problem, known, _free(config, stage, known)), works)) if problem.roles else []
    if not found and config.cluster.gpus_per_node:
        more = _knobs(config, problem, known, _MOST_WORKERS) if problem.roles else {}
        found = [with_nodes(cure) for cure in _search(more, lambda cure: works(with_nodes(cure)))]
        if works(alone := with_nodes({})):
            found.append(alone)
    yield from found or ([cure] if (cure := _larger(config, works)) else [])


def _search(knobs: dict[str, list], works: Callable[[Cure], bool]) -> Iterator[Cure]:
    """Few keys before many, mild values before strong ones; no key that a cure found before does without."""
    enough: list[set[str]] = []
    for together in range(1, min(_TOGETHER, len(knobs)) + 1):
        for keys in combinations(knobs, together):
            if any(known <= set(keys) for known in enough):
                continue
            strongest = {key: knobs[key][-1] for key in keys}
            if SHARE not in keys and not works(strongest):
                continue
            cures = (dict(zip(keys, values, strict=True)) for values in product(*(knobs[key] for key in keys)))
            if (cure := next(filter(works, cures), None)) is not None:
                enough.append(set(keys))
                yield cure
        if len(enough) >= _TOLD:
            return


def _knobs(config: RunConfig, problem: Problem, known: Models, free: int) -> dict[str, list]:
    """What may be changed for the roles of a problem: values by key, the strongest last. free: GPUs that nobody asks for."""
    knobs: dict[str, list] = {}
    for role in problem.roles:
        section = getattr(config, role)
        if 0 < section.gpus < 1:
            knobs[f"{role}.gpus"] = [1.0]
        if section.dtype == "float32":
            knobs[f"{role}.dtype"] = ["bfloat16"]
        if isinstance(section, RolloutSection):
            knobs |= _of_engines(config, known, free)
        elif isinstance(section, FrozenRole):
            knobs[f"{role}.tokens_per_batch"] = _halves(section.tokens_per_batch, longest_sample(config))
            knobs[f"{role}.workers"] = _more(section.workers, section.workers + int(free / section.gpus / section.replicas))
        else:
            knobs |= _of_trained(config, role, section, free)
    return {key: values for key, values in knobs.items() if values}


def _of_trained(config: RunConfig, role: str, section: Optimisation, free: int) -> dict[str, list]:
    small = {"ppo.tokens_per_microbatch": _halves(config.ppo.tokens_per_microbatch, longest_sample(config))}
    if isinstance(section, SupervisedSection):
        small = {f"{role}.microbatch": _halves(section.microbatch, 1)}
    sharded = list(range(section.zero_stage + 1, 4))
    offloaded = section.offload_optimizer and section.zero_stage == 3 and not section.offload_parameters
    return {
        f"{role}.zero_stage": sharded,
        f"{role}.gradient_checkpointing": [] if section.gradient_checkpointing else [True],
        **small,
        f"{role}.workers": _more(section.workers, section.workers + int(free / section.gpus)),
        f"{role}.offload_optimizer": [True] if section.zero_stage and not section.offload_optimizer else [],
        f"{role}.offload_parameters": [True] if offloaded else [],
    }


def _of_engines(config: RunConfig, known: Models, free: int) -> dict[str, list]:
    rollout, shape = config.rollout, known.shapes["rollout"]
    most = min(rollout.tensor_parallel + int(free / rollout.gpus / rollout.fewest), config.cluster.gpus_per_node or shape.heads)
    shares = [share for share in _SHARES if share != rollout.gpu_memory_utilization]
    others = [ranks for ranks in range(1, most + 1) if engine.tensor_parallel_problem(engine.cut(shape), ranks) is None]
    return {
        SHARE: sorted(shares, key=lambda share: abs(share - rollout.gpu_memory_utilization)),
        "rollout.tensor_parallel": [ranks for ranks in others if ranks != rollout.tensor_parallel],
        "rollout.max_concurrent": _halves(rollout.max_concurrent, 1),
    }


def _halves(value: int, least: int) -> list[int]:
    """Smaller values, down to `least`."""
    steps = [value >> shift for shift in range(1, value.bit_length())]
    smaller = [step for step in steps if step > least]
    return [*smaller, least] if least < value else []


def _more(value: int, most: int) -> list[int]:
    """Larger values, up to `most`."""
    steps = {value + 1, *(ceil(value * factor) for factor in (1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 32, 64)), min(most, 64 * value)}
    return sorted(step for step in steps if value < step <= most)


def _free(config: RunConfig, stage: Sequence[str], known: Models) -> int:
    """GPUs that are planned for and that no role of the stage asks for."""
    if config.cluster.gpus_per_node is None:
        return _MOST_WORKERS
    asked = sum(one.gpus for one in plan(config, stage, known).stages)
    return max(0, int(config.cluster.nodes * config.cluster.gpus_per_node - asked))


def _nodes(config: RunConfig, stages: Sequence[str], known: Models) -> Cure:
    """As many nodes as the GPUs that are asked for, which are no longer this machine alone; nothing where there are enough."""
    asked = max(stage.gpus for stage in plan(config, stages, known).stages)
    nodes = ceil(asked / config.cluster.gpus_per_node - 1e-6)
    if nodes <= config.cluster.nodes:
        return {}
    return {"cluster.nodes": nodes} | ({} if config.cluster.address else {"cluster.address": "auto"})


def _larger(config: RunConfig, works: Callable[[Cure], bool]) -> Cure | None:
    """The smallest GPU, in whole GB, on which it fits."""
    if config.cluster.gpu_gb is None:
        return None
    low, high = int(config.cluster.gpu_gb), int(config.cluster.gpu_gb) + 1
    while not works({"cluster.gpu_gb": high}):
        low, high = high, 2 * high
        if high > _LARGEST_GPU:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works({"cluster.gpu_gb": middle}) else (middle, high)
    return {"cluster.gpu_gb": high}
