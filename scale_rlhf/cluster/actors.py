"""Ending actors for certain: Ray asks a process to exit, and one that was stopped or hangs does not hear it."""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

_ASKING = 30.0  # seconds for an actor to say who it is
_GRACE = 3.0  # seconds for it to exit


@dataclass(frozen=True)
class Process:
    """A process of an actor, or one that it started."""

    node: str  # Ray's id
    pid: int
    began: float  # seconds since the epoch: a number is given to another process one day


async def identify(actors: Sequence[Any]) -> list[Process]:
    """The processes behind actors that have just started, with those that they started. Whoever does not answer is left out."""
    asked = [asyncio.wait_for(_answer(actor.__ray_call__.remote(_processes)), _ASKING) for actor in actors]
    found = await asyncio.gather(*asked, return_exceptions=True)
    return [process for one in found if not isinstance(one, BaseException) for process in one]


def end(actors: Sequence[Any], processes: Sequence[Process]) -> None:
    """Kill the actors, and make sure of their processes, on whatever node they are; on others nobody waits for it."""
    import ray

    for actor in actors:
        ray.kill(actor)
    here = ray.get_runtime_context().get_node_id()
    mine = [one for one in processes if one.node == here]
    threading.Thread(target=_kill, args=(mine,), daemon=True, name="end-actors").start()
    for node in {one.node for one in processes} - {here, *_dead_nodes()}:
        _on(node, [one for one in processes if one.node == node])


def _processes(actor: Any) -> list[Process]:
    import ray

    node, me = ray.get_runtime_context().get_node_id(), psutil.Process()
    return [Process(node, one.pid, one.create_time()) for one in (me, *me.children(recursive=True))]


def _kill(processes: Sequence[Process]) -> None:
    """SIGKILL for those that are still there after a while: a process that exits by itself is no alarm to Ray."""
    until = time.monotonic() + _GRACE
    while time.monotonic() < until and any(map(lives, processes)):
        time.sleep(0.05)
    for process in processes:
        try:
            if lives(process):
                psutil.Process(process.pid).kill()
        except psutil.Error:  # it has ended
            continue


def lives(process: Process) -> bool:
    """Whether a process of this node is there."""
    try:
        found = psutil.Process(process.pid)
        return found.create_time() == process.began and found.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _on(node: str, processes: Sequence[Process]) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    ray.remote(_kill).options(num_cpus=0, scheduling_strategy=there, max_retries=0).remote(processes)


def _dead_nodes() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}


async def _answer(reference: Any) -> Any:
    return await reference
