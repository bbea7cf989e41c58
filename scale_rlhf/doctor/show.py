"""The doctor's report: tables for a person, one line of JSON for programs."""

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from scale_rlhf.doctor.facts import Collective, Facts, Link, NodeFacts, Space
from scale_rlhf.doctor.findings import MUST_MATCH, Finding, version


def as_json(facts: Facts, found: list[Finding]) -> str:
    """{"ok", "findings", "facts"} in one line."""
    return json.dumps({"ok": healthy(found), "findings": [asdict(one) for one in found], "facts": asdict(facts)})


def from_json(line: str) -> tuple[Facts, list[Finding]]:
    """What `as_json` was given."""
    values = json.loads(line)
    facts = values["facts"]
    facts |= {"nodes": [NodeFacts.of(node["name"], node) for node in facts["nodes"]],
              "links": [Link(**link) for link in facts["links"]],
              "collectives": [Collective(**one) for one in facts["collectives"]]}
    return Facts(**facts), [Finding(**one) for one in values["findings"]]


def healthy(found: list[Finding]) -> bool:
    """Whether nothing is wrong of which a run fails."""
    return all(one.severity != "error" for one in found)


def print_report(facts: Facts, found: list[Finding], console: Console) -> None:
    """The nodes, what was tried between them, and the findings."""
    console.print(_nodes(facts))
    if facts.nodes:
        first = facts.nodes[0]
        versions = ", ".join(f"{package} {version(first, package)}" for package in MUST_MATCH if version(first, package))
        console.print(f"Python {first.python}, {versions}", highlight=False)
    for backend in dict.fromkeys(one.backend for one in facts.collectives):
        ranks = [one for one in facts.collectives if one.backend == backend]
        well = [one.seconds for one in ranks if not one.problem]
        said = f"{len(well)} of {len(ranks)} ranks" + (f", 4 MB in {max(well) * 1e3:.0f} ms" if well else "")
        console.print(f"all-reduce over {backend}: {said}", highlight=False)
    for link in facts.links:
        if not link.problem:
            console.print(f"{link.source} → {link.target}: {link.bandwidth * 8 / 1e9:.1f} Gbit/s, round trip "
                          f"{link.latency * 1e3:.2f} ms", highlight=False, markup=False)
    if not found:
        console.print("nothing found that a run would fail of")
    for one in found:
        console.print(f"\n[bold {'red' if one.severity == 'error' else 'yellow'}]{one.severity}[/]  {one.check}, ",
                      end="", highlight=False)
        console.print(f"{one.where}: {one.found}\n  cure: {one.cure}", highlight=False, markup=False, soft_wrap=True)


def _nodes(facts: Facts) -> Table:
    table = Table(title="nodes" if facts.cluster else None)
    for column in ("node", "CPUs", "free memory", "free /dev/shm", "GPUs", "clock"):
        table.add_column(column)
    for node in facts.nodes:
        table.add_row(node.name, f"{node.cpus:g}", _free(node.memory), _free(node.shared_memory), _gpus(node),
                      f"{round(node.clock * 1e3):+d} ms" if facts.cluster else "–")
    for node, why in facts.silent.items():
        table.add_row(node, *["–"] * 4, why)
    return table


def _free(space: Space) -> str:
    return f"{space.free / 1e9:.1f} of {space.total / 1e9:.1f} GB"


def _gpus(node: NodeFacts) -> str:
    return f"{len(node.gpus)} × {node.gpus[0].name}" if node.gpus else "none"
