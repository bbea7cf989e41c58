"""From nodes that can be asked to facts. Who does not answer in time is a fact too; nothing is concluded here."""

import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from scale_rlhf.doctor.facts import Collective, Facts, Link, NodeFacts
from scale_rlhf.doctor.probe import GRACE, SCRIPT, ClusterNodes, Nodes, Problem, ThisMachine, cluster_nodes, script_result

START, LOOK, LINK, COLLECTIVE = 60.0, 60.0, 40.0, 90.0  # seconds for a node to answer at all, and for each kind of question
CLOCK_ROUNDS = 3


def of_this_machine(folder: str | None) -> Facts:
    """Facts of the machine that we are on; gloo is tried between two processes. folder: of runs, or None."""
    here = ThisMachine()
    nodes = _look(here, folder, dict.fromkeys(here.names, (0.0, 0.0)))
    from scale_rlhf.config.resources import machine_cpus, machine_gpus

    nodes = [NodeFacts(**vars(node) | {"cpus": machine_cpus(), "ray_gpus": machine_gpus()}) for node in nodes]
    collectives = _collective(ThisMachine(ranks=2), "gloo", ["0", "1"])
    if nodes and nodes[0].gpus:
        collectives += _collective(here, "nccl", ["0"])
    return Facts(nodes, collectives=collectives)


def of_cluster(address: str, folder: str | None) -> Facts:
    """Facts of every node of the Ray cluster at `address`. RunError where it cannot be joined."""
    with cluster_nodes(address) as nodes:
        return _of_nodes(nodes, folder)


def _of_nodes(nodes: ClusterNodes, folder: str | None) -> Facts:
    answers = nodes.call("now", dict.fromkeys(nodes.names, ()), START)
    silent = {nodes.names[node]: answer.text for node, answer in answers.items() if isinstance(answer, Problem)}
    awake = [node for node, answer in answers.items() if not isinstance(answer, Problem)]
    clocks = {node: _clock(nodes, node) for node in awake}
    with _file_to_see(folder) as (seen, unwritable):
        found = _look(nodes, folder, clocks, seen, silent)
    resources = {nodes.names[node]: its["Resources"] for node, its in nodes.alive.items()}
    found = [NodeFacts(**vars(one) | {"cpus": resources[one.name].get("CPU", 0), "ray_gpus": resources[one.name].get("GPU", 0)})
             for one in found]
    awake = [node for node in awake if nodes.names[node] not in silent]
    with_gpus = [node for node in awake if any(one.gpus and one.name == nodes.names[node] for one in found)]
    return Facts(
        found, cluster=True, silent=silent, dead=nodes.dead, links=_links(nodes, awake), token=_asks_for_token(),
        collectives=_collective(nodes, "gloo", awake) + _collective(nodes, "nccl", with_gpus), unwritable=unwritable,
    )


def _look(nodes: Nodes, folder: str | None, clocks: Mapping[str, tuple[float, float]], seen: dict | None = None,
          silent: dict[str, str] | None = None) -> list[NodeFacts]:
    """Facts of the nodes in `clocks`; those that give none are added to `silent`."""
    wanted = {"disks": ["/tmp", *([folder] if folder else [])], "seen": seen}
    answers = _scripts(nodes, {node: ("facts", [wanted]) for node in clocks}, LOOK)
    if silent is not None:
        silent |= {nodes.names[node]: answer["problem"] for node, answer in answers.items() if "problem" in answer}
    return [NodeFacts.of(nodes.names[node], answer, clock=clocks[node][0], clock_error=clocks[node][1])
            for node, answer in answers.items() if "problem" not in answer]


def _scripts(nodes: Nodes, asked: Mapping[str, tuple[str, list]], seconds: float) -> dict[str, dict]:
    arguments = {node: (SCRIPT.read_text(), _words(what, values, seconds), seconds) for node, (what, values) in asked.items()}
    return {node: script_result(answer) for node, answer in nodes.call("run", arguments, seconds + GRACE).items()}


def _words(what: str, values: list, seconds: float) -> list[str]:
    return [what, json.dumps(values), str(seconds)]


def _clock(nodes: Nodes, node: str) -> tuple[float, float]:
    """(seconds that the node's clock is ahead of ours, by how much that may be off): the shortest of a few round trips."""
    trips = []
    for _ in range(CLOCK_ROUNDS):
        start = time.time()
        there = nodes.call("now", {node: ()}, GRACE)[node]
        end = time.time()
        if not isinstance(there, Problem):
            trips.append(((end - start) / 2, there - (start + end) / 2))
    error, ahead = min(trips, default=(0.0, 0.0))
    return ahead, error


@contextmanager
def _file_to_see(folder: str | None) -> Iterator[tuple[dict | None, str | None]]:
    """({"path", "text"} of a file for other nodes to look for, None) or (None, why it cannot be written)."""
    if folder is None or not os.path.isabs(folder):
        yield None, None
        return
    place = Path(folder)
    there = next(one for one in (place, *place.parents) if one.is_dir())
    file, text = there / f".scale-rlhf-doctor-{secrets.token_hex(4)}", secrets.token_hex(8)
    try:
        file.write_text(text)
    except OSError as error:
        yield None, f"{there}: {error.strerror}"
        return
    try:
        yield {"path": str(file), "text": text}, None
    finally:
        with suppress(OSError):
            file.unlink()


def _links(nodes: Nodes, awake: list[str]) -> list[Link]:
    """Each node to the next, the last to the first; no node has two visitors at a time."""
    if len(awake) < 2:
        return []
    ring = list(zip(awake, awake[1:] + awake[:1], strict=True))
    odd_one = [ring.pop()] if len(ring) % 2 and len(ring) > 2 else []
    return [link for pairs in (ring[::2], ring[1::2], odd_one) for link in _measure(nodes, pairs)]


def _measure(nodes: Nodes, pairs: list[tuple[str, str]]) -> list[Link]:
    script = SCRIPT.read_text()
    ports = nodes.call("start", {target: (script, _words("serve", [nodes.addresses[target]], LINK)) for _, target in pairs}, LINK)
    answers = _scripts(nodes, {source: ("connect", [nodes.addresses[target], int(ports[target])])
                               for source, target in pairs if _is_port(ports[target])}, LINK)
    return [_link(nodes, source, target, answers.get(source, {"problem": f"{nodes.names[target]} opened no port"}))
            for source, target in pairs]


def _link(nodes: Nodes, source: str, target: str, answer: dict) -> Link:
    return Link(nodes.names[source], nodes.names[target], **answer)


def _is_port(line: str | Problem) -> bool:
    return isinstance(line, str) and line.strip().isdigit()


def _collective(nodes: Nodes, backend: str, ranks: list[str]) -> list[Collective]:
    """An all-reduce over the nodes `ranks`, one rank on each."""
    if not ranks:
        return []
    first, *others = ranks
    address, world = nodes.addresses[first], len(ranks)

    def arguments(rank: int, port: int) -> list:
        return [backend, rank, world, address, port, COLLECTIVE / 2]

    words = _words("collective", arguments(0, 0), COLLECTIVE)
    port = nodes.call("start", {first: (SCRIPT.read_text(), words)}, COLLECTIVE)[first]
    if not _is_port(port):  # its only line says what is wrong
        answers = {first: script_result(port if isinstance(port, Problem) else (port, ""))}
    else:
        answers = _scripts(nodes, {node: ("collective", arguments(rank, int(port))) for rank, node in enumerate(others, 1)},
                           COLLECTIVE)
        answers[first] = script_result(nodes.call("finish", {first: (COLLECTIVE,)}, COLLECTIVE + GRACE)[first])
    return [Collective(backend, nodes.names[node], answer.get("problem"), answer.get("seconds", 0.0))
            for node, answer in answers.items()]


def _asks_for_token() -> bool:
    from ray._raylet import AuthenticationMode, get_authentication_mode

    return get_authentication_mode() == AuthenticationMode.TOKEN
