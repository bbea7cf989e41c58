"""Which process runs where: Ray placement groups with a bundle for every process of every role.

Roles that are packed share one group, so that Ray sees them together; one that is spread has a group of its own. Engines that
may come and go have one each: Ray grants it when there is room, and takes it back with its node.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from scale_rlhf.cluster.device import environment
from scale_rlhf.cluster.fitting import misfits
from scale_rlhf.cluster.ray_cluster import nodes
from scale_rlhf.config.resources import Ask, asks
from scale_rlhf.config.roles import Placed
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.orchestration.deadlines import RoleFailed

_POLL = 0.25  # seconds between looks whether Ray has placed something


@dataclass
class Placement:
    """Groups that were asked for, and where in them each role's processes are."""

    asked: list[Ask]
    groups: list[Any] = field(default_factory=list)
    where: dict[str, list[tuple[Any, int]]] = field(default_factory=dict)  # (group, bundle) of each process, by role

    def options(self, role: str, section: Placed, number: int, ranks: int = 1, **more: Any) -> dict[str, Any]:
        """Ray options of process `number` of a role, which is `ranks` times what the section says of one."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group, bundle = self.where[role][number]
        gpus = section.gpus * ranks
        return {
            "num_cpus": section.cpus * ranks, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0,
            "resources": {name: amount * ranks for name, amount in section.resources.items()},
            "runtime_env": {"env_vars": environment(section.threads, gpus)},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle),
        } | more

    def replicas(self, role: str, section: Placed, replicas: int, workers: int) -> list[list[dict]]:
        """Options of a role of several replicas of several workers each."""
        return [[self.options(role, section, replica * workers + worker) for worker in range(workers)]
                for replica in range(replicas)]

    def granted(self, role: str, number: int) -> bool:
        """Whether there is a node for that process at this moment."""
        return _granted(*self.where[role][number])

    def count(self, role: str) -> int:
        """For how many of its processes there is a node."""
        return sum(self.granted(role, number) for number in range(len(self.where[role])))

    def table(self, title: str) -> str:
        """What each role asked for, and the nodes that it has: lines of text."""
        table = Table(title=title, title_justify="left")
        for column in ("role", "processes", "CPUs each", "GPUs each", "on nodes with", "nodes"):
            table.add_column(column, justify="right" if column.endswith(("processes", "each")) else "left")
        homes = self._homes()
        for ask in self.asked:
            wanted = ", ".join(f"{key}={value}" for key, value in ask.labels.items()) or "any"
            table.add_row(ask.role, str(ask.processes), f"{ask.cpus:g}", f"{ask.gpus:g}", f"{wanted}; {ask.placement}",
                          _counted(homes[ask.role]))
        console = Console(file=StringIO(), width=120)
        console.print(table)
        return console.file.getvalue().rstrip()

    def release(self) -> None:
        import ray

        for group in self.groups:
            ray.util.remove_placement_group(group)
        self.groups = []

    def _homes(self) -> dict[str, list[str]]:
        """Address of each process's node, by role; "–" where it has none yet."""
        import ray
        from ray.util import placement_group_table

        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        nodes = {group.id: placement_group_table(group)["bundles_to_node_id"] for group in self.groups}
        return {role: [addresses.get(nodes.get(group.id, {}).get(bundle), "–") for group, bundle in places]
                for role, places in self.where.items()}


async def until_granted(options: Sequence[dict[str, Any]], seconds: float, who: str) -> None:
    """Until there are nodes for processes that take the place of others: theirs may have died with them. RoleFailed past
    `seconds`. options: Ray's, of each; those that nobody has placed are not waited for.
    """
    places = [(one["scheduling_strategy"].placement_group, one["scheduling_strategy"].placement_group_bundle_index)
              for one in options if "scheduling_strategy" in one]
    until = time.monotonic() + seconds
    while not await asyncio.to_thread(lambda: all(_granted(*place) for place in places)):
        if time.monotonic() > until:
            raise RoleFailed(f"{who}: its node is gone, and for {seconds:g} s (limits.start_seconds) no other had room for it")
        await asyncio.sleep(_POLL)


def reserve(config: RunConfig, seconds: float = 0.0, stage: str = "ppo") -> Placement:
    """Ask Ray for every process's CPUs and GPUs. Raises RunError where the cluster can never have them.

    seconds: to wait for nodes that may come back first, where a run begins again because it has lost some. stage: whose.
    """
    asked, until = asks(config, stage), time.monotonic() + seconds
    while mistakes := list(misfits(asked, nodes())):
        if time.monotonic() > until:
            raise RunError("the roles cannot be placed:\n" + "\n".join(mistakes))
        time.sleep(_POLL)
    placement = Placement(asked)
    elastic = config.rollout.elastic
    together = [ask for ask in asked if ask.placement == "pack" and not (ask.role == "rollout" and elastic)]
    for roles, strategy in [(together, "PACK"), *(([ask], "SPREAD") for ask in asked if ask.placement == "spread")]:
        if not (elastic and roles[0].role == "rollout"):
            _group(placement, roles, strategy)
    if elastic:
        (rollout,) = (ask for ask in asked if ask.role == "rollout")
        for _ in range(config.rollout.most):
            _group(placement, [rollout], "PACK", count=1)
    return placement


async def wait(placement: Placement, config: RunConfig) -> None:
    """Until there is a node for every process (of engines that come and go, for the fewest). RunError past the deadline."""
    seconds, needed = config.limits.start_seconds, {ask.role: ask.processes for ask in placement.asked}
    until = time.monotonic() + seconds
    while True:
        granted = await asyncio.to_thread(lambda: {role: placement.count(role) for role in needed})
        waiting = [role for role, count in needed.items() if granted[role] < count]
        if not waiting:
            return
        if time.monotonic() > until:
            raise RunError(_late(placement, waiting, seconds))
        await asyncio.sleep(_POLL)


def _granted(group: Any, bundle: int) -> bool:
    import ray
    from ray.util import placement_group_table

    node = placement_group_table(group)["bundles_to_node_id"].get(bundle)
    return node in {one["NodeID"] for one in ray.nodes() if one["Alive"]}


def _group(placement: Placement, roles: Sequence[Ask], strategy: str, count: int | None = None) -> None:
    from ray.util import placement_group

    bundles, labels, places = [], [], []
    for ask in roles:
        number = ask.processes if count is None else count
        places.append((ask.role, range(len(bundles), len(bundles) + number)))
        bundles += [ask.bundle] * number
        labels += [dict(ask.labels)] * number
    if not bundles:
        placement.where |= {role: [] for role, _ in places}
        return
    group = placement_group(bundles, strategy=strategy, bundle_label_selector=labels)
    placement.groups.append(group)
    for role, numbers in places:
        placement.where.setdefault(role, []).extend((group, number) for number in numbers)


def _late(placement: Placement, waiting: Sequence[str], seconds: float) -> str:
    import ray

    has = {key: value for key, value in ray.available_resources().items() if key in ("CPU", "GPU")}
    asked = "; ".join(str(ask) for ask in placement.asked)
    return (f"{', '.join(waiting)} could not be placed within {seconds:g} s (limits.start_seconds): the roles ask for {asked}; "
            f"free in the cluster: {has}; its nodes: {'; '.join(map(str, nodes()))}. Does something else run there? Lower cpus "
            "and gpus of a role, or free the cluster")


def _counted(homes: Sequence[str]) -> str:
    return ", ".join(f"{home} × {homes.count(home)}" if homes.count(home) > 1 else home for home in dict.fromkeys(homes))
