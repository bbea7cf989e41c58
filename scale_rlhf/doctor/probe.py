"""Asking nodes: an actor on each of a cluster's, or this machine alone, behind one interface. Each question has a deadline."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

SCRIPT = Path(__file__).with_name("on_node.py")
GRACE = 10.0  # seconds that an answer may be later than the node's own deadline


@dataclass(frozen=True)
class Problem:
    """Stands where an answer would."""

    text: str


class Nodes(Protocol):
    """names: what a person knows a node by, by its id. addresses: where others reach it."""

    names: dict[str, str]
    addresses: dict[str, str]

    def call(self, method: str, arguments: Mapping[str, tuple], seconds: float) -> dict[str, Any]:
        """The answer of each node that is asked, or its Problem. arguments: by node."""


def probe_class() -> type:
    """The class of the actors. Made inside a function: Ray then sends its code instead of the name of a module of ours,
    which a node may not have, or have in another version."""

    class Probe:
        def now(self) -> float:
            return time.time()

        def run(self, script: str, words: list[str], seconds: float) -> tuple[str, str]:
            """(last line of the output, end of the errors) of the script."""
            self.start(script, words, first_line=False)
            return self.finish(seconds)

        def start(self, script: str, words: list[str], first_line: bool = True) -> str:
            """Leaves the script running; its first line."""
            self.process = subprocess.Popen([sys.executable, "-c", script, *words], stdin=subprocess.DEVNULL,
                                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            return self.process.stdout.readline() if first_line else ""

        def finish(self, seconds: float) -> tuple[str, str]:
            try:
                out, errors = self.process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                out, errors = "", f"not done within {seconds:g} s"
            lines = out.strip().splitlines()
            return (lines[-1] if lines else ""), errors[-300:]

    return Probe


class ThisMachine:
    """Without Ray: `ranks` of them, all this machine, so that a collective has more than one."""

    def __init__(self, ranks: int = 1):
        probe = probe_class()
        self.names = {str(rank): "this machine" for rank in range(ranks)}
        self.addresses = dict.fromkeys(self.names, "127.0.0.1")
        self._probes = {node: probe() for node in self.names}

    def call(self, method: str, arguments: Mapping[str, tuple], seconds: float) -> dict[str, Any]:
        return {node: getattr(self._probes[node], method)(*words) for node, words in arguments.items()}


class ClusterNodes:
    """One actor, without a CPU of its own, on each node that is alive. Ray is initialised."""

    def __init__(self):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        listed = ray.nodes()
        self.alive = {node["NodeID"]: node for node in listed if node["Alive"]}
        self.dead = [node["NodeManagerAddress"] for node in listed if not node["Alive"]]
        self.addresses = {node: its["NodeManagerAddress"] for node, its in self.alive.items()}
        self.names = _distinct(self.addresses)
        probe = ray.remote(probe_class())
        self._actors = {node: probe.options(
            num_cpus=0, max_restarts=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
            for node in self.alive}

    def call(self, method: str, arguments: Mapping[str, tuple], seconds: float) -> dict[str, Any]:
        import ray

        asked = {getattr(self._actors[node], method).remote(*words): node for node, words in arguments.items()}
        if not asked:
            return {}
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=seconds)
        return {asked[reference]: _answer(reference) for reference in ready} | {
            asked[reference]: Problem(f"no answer within {seconds:g} s") for reference in late}

    def close(self) -> None:
        import ray

        for actor in self._actors.values():
            ray.kill(actor)


def script_result(answer: Any) -> dict:
    """What the script on a node answered, or {"problem"}."""
    if isinstance(answer, Problem):
        return {"problem": answer.text}
    line, errors = answer
    try:
        return json.loads(line)
    except ValueError:
        said = errors.strip().splitlines()
        return {"problem": said[-1] if said else "it ended without an answer"}


@contextmanager
def cluster_nodes(address: str) -> Iterator[ClusterNodes]:
    """Joins the cluster for the time inside. RunError where that cannot be."""
    from scale_rlhf.cluster.processes import ProcessWatch
    from scale_rlhf.cluster.ray_cluster import session
    from scale_rlhf.config.schema import RunConfig

    with ProcessWatch() as watch, session(RunConfig(cluster={"address": address}), watch):
        nodes = ClusterNodes()
        try:
            yield nodes
        finally:
            nodes.close()


def _answer(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference, timeout=GRACE)
    except Exception as error:  # noqa: BLE001 - of a node, in whatever words
        lines = str(error).strip().splitlines()
        return Problem(lines[-1][:300] if lines else type(error).__name__)


def _distinct(addresses: dict[str, str]) -> dict[str, str]:
    """Several nodes on one machine have one address: then a piece of the node's id tells them apart."""
    several = {one for one in addresses.values() if list(addresses.values()).count(one) > 1}
    return {node: f"{address} ({node[:6]})" if address in several else address for node, address in addresses.items()}
