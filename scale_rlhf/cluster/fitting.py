"""What can never be placed on the nodes that there are, and why. Pure: no Ray.

It is found in three steps, each with a message of its own: no node has what one process needs; the nodes that have it do not
have room for all processes of the role; roles that want the same nodes want more than these have. What passes may still not
fit (packing is a puzzle), which Ray then finds by trying.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from scale_rlhf.config.resources import Ask

_NONE = 1e-6  # Ray counts in fractions


@dataclass(frozen=True)
class Node:
    """A node that is alive. has: Ray's resources, CPU and GPU among them."""

    name: str
    has: Mapping[str, float]
    labels: Mapping[str, str]

    def room(self, ask: Ask) -> int:
        """How many of its processes this node could hold, were it empty."""
        if any(self.labels.get(key) != value for key, value in ask.labels.items()):
            return 0
        wanted = {name: amount for name, amount in ask.bundle.items() if amount > 0}
        return min((int(self.has.get(name, 0.0) / amount + _NONE) for name, amount in wanted.items()), default=ask.processes)

    def __str__(self) -> str:
        counted = ", ".join(f"{self.has.get(key, 0):g} {key}s" for key in ("CPU", "GPU"))
        labels = ", ".join(f"{key}={value}" for key, value in self.labels.items() if not key.startswith("ray.io/"))
        return f"{self.name} ({counted}{'; ' * bool(labels)}{labels})"


def misfits(asks: Sequence[Ask], nodes: Sequence[Node]) -> Iterator[str]:
    """A message for everything that is asked for and could not be placed even if nothing else ran there."""
    there, alone = "; ".join(map(str, nodes)), True
    for ask in asks:
        if not ask.processes:
            continue
        room = sum(node.room(ask) for node in nodes)
        if room < ask.processes:
            alone = False
            found = f"there is room for {room}" if room else "no node has that for even one of them"
            yield f"{ask}: {found}. The cluster has {there}. {_cure(ask, nodes)}"
    if alone:
        yield from _together(asks, nodes, there)


def _together(asks: Sequence[Ask], nodes: Sequence[Node], there: str) -> Iterator[str]:
    """Roles that may go to some nodes and no others, against what those have."""
    homes = {ask.role: frozenset(node.name for node in nodes if node.room(ask)) for ask in asks if ask.processes}
    for home in sorted(set(homes.values()), key=len):
        rivals = [ask for ask in asks if ask.processes and homes[ask.role] <= home]
        has = [node for node in nodes if node.name in home]
        for name in sorted({name for ask in rivals for name in ask.bundle}):
            wanted = sum(ask.processes * ask.bundle.get(name, 0.0) for ask in rivals)
            held = sum(node.has.get(name, 0.0) for node in has)
            if wanted > held + _NONE:
                yield (f"{'; '.join(map(str, rivals))}: together {wanted:g} {name}s, and {', '.join(node.name for node in has)} "
                       f"have {held:g}. The cluster has {there}. Lower workers, replicas or engines, or what each takes "
                       "(fractions share), or add nodes")
                return


def _cure(ask: Ask, nodes: Sequence[Node]) -> str:
    if ask.labels and not any(all(node.labels.get(key) == value for key, value in ask.labels.items()) for node in nodes):
        given = ",".join(f"{key}={value}" for key, value in ask.labels.items())
        return f"Start nodes with `ray start --labels {given}`, or change {ask.role}.labels"
    return f"Lower what {ask.role} takes or how many there are, or add nodes"
