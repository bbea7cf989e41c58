"""How many CPUs and GPUs each role of a stage asks for, and what a machine has. Imports no torch."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scale_rlhf.config.one_base import policy_serves_reference
from scale_rlhf.config.reward_sources import processes, reward_sources
from scale_rlhf.config.roles import Placed
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.config.supervised import SUPERVISED


@dataclass(frozen=True)
class Ask:
    """Processes of one role, and what each of them needs of the node that it runs on."""

    role: str
    processes: int
    cpus: float
    gpus: float
    resources: Mapping[str, float] = field(default_factory=dict)  # others that Ray counts
    labels: Mapping[str, str] = field(default_factory=dict)
    placement: str = "pack"

    @property
    def bundle(self) -> dict[str, float]:
        """Of one process, as Ray counts."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {}) | dict(self.resources)

    def __str__(self) -> str:
        more = "".join(f", {amount:g} {name}" for name, amount in self.resources.items())
        labels = " and ".join(f"{key}={value}" for key, value in self.labels.items())
        where = f" on nodes with {labels}" if labels else ""
        return f"{self.role} {self.processes} × ({self.cpus:g} CPUs, {self.gpus:g} GPUs{more}){where}"


def asks(config: RunConfig, stage: str) -> list[Ask]:
    """What the processes of `stage` that run at the same time ask for. An engine is one process that owns its ranks' GPUs.

    Of best_of_n: those that answer and score; the workers that train come after them (`phases`).
    """
    if stage in SUPERVISED and stage != "best_of_n":
        return _workers(config, stage)
    if stage not in ("best_of_n", "ppo"):
        return []
    answering = [
        _ask("rollout", config.rollout, config.rollout.fewest, config.rollout.tensor_parallel),
        *(_ask(key, source, math.prod(processes(source))) for key, source in reward_sources(config).items()),
    ]
    return answering if stage == "best_of_n" else [
        *answering,
        *([] if policy_serves_reference(config) else [
            _ask("reference", config.reference, config.reference.replicas * config.reference.workers)]),
        _ask("policy", config.policy, config.policy.workers),
        *([_ask("value", config.value, config.value.workers)] if config.ppo.critic else []),
    ]


def phases(config: RunConfig, stage: str) -> list[list[Ask]]:
    """What a stage asks for at one time after another."""
    return [asks(config, stage), *([_workers(config, stage)] if stage == "best_of_n" else [])]


def _workers(config: RunConfig, stage: str) -> list[Ask]:
    section = getattr(config, SUPERVISED[stage])
    return [_ask(stage, section, section.workers)]


def _ask(role: str, section: Placed, processes: int, ranks: int = 1) -> Ask:
    return Ask(role, processes, section.cpus * ranks, section.gpus * ranks, section.resources, section.labels, section.placement)


def shortages(config: RunConfig, stages: Iterable[str], cpus: float, gpus: float, has: str) -> Iterator[str]:
    """A message for each stage that asks for more than there is. has: who has it, such as "this machine"."""
    for stage, asked in ((name, asked) for name in stages for asked in phases(config, name)):
        wanted = [sum(ask.processes * getattr(ask, key) for ask in asked) for key in ("cpus", "gpus")]
        short = [key for key, want, there in zip(("cpus", "gpus"), wanted, (cpus, gpus), strict=True) if want > there + 1e-6]
        if short:
            yield (f"stage {stage} asks for {wanted[0]:g} CPUs and {wanted[1]:g} GPUs, and {has} has {cpus:g} and {gpus:g}. "
                   f"It asks: {'; '.join(map(str, asked))}. "
                   f"Lower {' and '.join(f'ROLE.{key}' for key in short)} (fractions share one), workers, replicas or "
                   f"engines{_other_way(short, wanted, config)}")


def _other_way(short: list[str], wanted: list[float], config: RunConfig) -> str:
    if config.cluster.address:
        return ""
    if short == ["cpus"] and math.isfinite(wanted[0]):
        return f", or set cluster.cpus={math.ceil(wanted[0])} to let processes take turns on the CPUs that there are"
    return ", or join a cluster that has them (cluster.address)"


def machine_cpus() -> int:
    """CPUs that this process may run on, a container's quota counted."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(usable, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return usable


def machine_gpus() -> int:
    """NVIDIA GPUs of this machine that CUDA_VISIBLE_DEVICES leaves visible."""
    present = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    return min(present, len([name for name in visible.split(",") if name.strip() not in ("", "-1")]))


def local_cluster(config: RunConfig) -> tuple[float, int]:
    """CPUs and GPUs of the Ray cluster that a run starts on this machine."""
    cpus = config.cluster.cpus if config.cluster.cpus is not None else machine_cpus()
    return cpus, config.cluster.gpus if config.cluster.gpus is not None else machine_gpus()
