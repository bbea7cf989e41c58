"""Which process runs where: one Ray placement group with a bundle for every process of every role."""

import asyncio
from dataclasses import dataclass
from typing import Any

from scale_rlhf.cluster.device import environment
from scale_rlhf.config.resources import asks
from scale_rlhf.config.schema import Placed, RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.reward.make import processes as reward_processes


@dataclass
class Placement:
    """The group that Ray granted, and the place of each role's first bundle in it."""

    group: Any
    first: dict[str, int]

    def options(self, role: str, section: Placed, number: int, *, gpus: float | None = None, **more: Any) -> dict[str, Any]:
        """Ray options of process `number` of a role."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        gpus = section.gpus if gpus is None else gpus
        return {
            "num_cpus": section.cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0,
            "runtime_env": {"env_vars": environment(section.threads, gpus)},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self.group, placement_group_bundle_index=self.first[role] + number),
        } | more

    def replicas(self, role: str, section: Placed, replicas: int, workers: int) -> list[list[dict]]:
        """Options of a role of several replicas of several workers each."""
        return [[self.options(role, section, replica * workers + worker) for worker in range(workers)]
                for replica in range(replicas)]

    def bundles(self, role: str, count: int) -> tuple[Any, list[int]]:
        """(placement group, bundle of each rank), as training groups take it."""
        return self.group, [self.first[role] + rank for rank in range(count)]

    def release(self) -> None:
        import ray

        ray.util.remove_placement_group(self.group)


async def place(config: RunConfig) -> Placement:
    """Reserve every process's CPUs and GPUs at once, or say what is missing. Raises RunError."""
    import ray
    from ray.util import placement_group, remove_placement_group

    bundles, first = [], {}
    for role, count, cpus, gpus in _processes(config):
        first[role] = len(bundles)
        bundles += [{"CPU": cpus} | ({"GPU": gpus} if gpus else {})] * count
    group = placement_group(bundles, strategy="PACK")
    try:
        await asyncio.wait_for(group.ready(), config.limits.start_seconds)
    except TimeoutError as error:
        remove_placement_group(group)
        has = {key: value for key, value in ray.available_resources().items() if key in ("CPU", "GPU")}
        asked = "; ".join(map(str, asks(config, "ppo")))
        raise RunError(f"the roles could not be placed within {config.limits.start_seconds:g} s: they ask for {asked}; "
                       f"free in the cluster: {has}. Lower cpus and gpus of a role, or free the cluster") from error
    return Placement(group, first)


def _processes(config: RunConfig) -> list[tuple[str, int, float, float]]:
    """(role, processes, CPUs, GPUs) in the order of the bundles. An engine is one process that owns its ranks' GPUs."""
    rollout, reward, reference = config.rollout, config.reward, config.reference
    replicas, workers = reward_processes(config)
    tensor = rollout.tensor_parallel
    return [
        ("rollout", rollout.engines, rollout.cpus * tensor, rollout.gpus * tensor),
        ("reward", replicas * workers, reward.cpus, reward.gpus),
        ("reference", reference.replicas * reference.workers, reference.cpus, reference.gpus),
        ("policy", config.policy.workers, config.policy.cpus, config.policy.gpus),
        *([("value", config.value.workers, config.value.cpus, config.value.gpus)] if config.ppo.advantages == "gae" else []),
    ]
