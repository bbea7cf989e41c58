"""The learner's side of publishing: from ZeRO shards to a transport. Every rank of the policy holds a publisher.

`shared_memory` writes a version where engines on the same host load it from, `network` serves it to those on others; the
loop tells each engine when. `nccl` and `ipc` are vLLM's own and need GPUs: the trainer drives the engines' update.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from scale_rlhf.weights import copying
from scale_rlhf.weights.adapter import Adapter
from scale_rlhf.weights.manifest import Manifest, Metadata, Piece, TensorPlace, lay_out, shares
from scale_rlhf.weights.network import Server
from scale_rlhf.weights.shared_memory import SharedFiles
from scale_rlhf.weights.verify import fingerprint


@dataclass(frozen=True)
class Opening:
    """What a publisher is told about the run. engines: (actors, workers of each). address: where a group meets. here: this
    rank's own, as engines reach it.
    """

    rank: int
    ranks: int
    tag: str  # of the run, in file names
    engines: tuple[list, int] = field(default=((), 1))
    address: tuple[str, int] = ("127.0.0.1", 0)
    here: str = "127.0.0.1"
    seconds: float = 300.0  # deadline of a version
    verify: str | None = None  # the type that engines compute in, where they are to prove what they hold


class Publisher(Protocol):
    def publish(self, version: int) -> Manifest | None:
        """Called on every rank. Returns what this rank wrote, for engines to load; None where it has nothing to say."""

    def close(self) -> None: ...


class WholeWeights:
    """What is published: the policy's weights in Hugging Face names, or of a policy with an adapter that alone. Each tensor
    whole, or this rank's share of it.

    Iterating gathers ZeRO-3 shards: all ranks in step.
    """

    def __init__(self, model: nn.Module, iterate: Callable[[], Iterator[tuple[str, torch.Tensor]]],
                 adapter: Adapter | None = None):
        self.model, self.iterate, self.adapter = model, iterate, adapter

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """(name, parameter), in order."""
        return [(name, one) for name, one in self.model.named_parameters() if one.requires_grad or self.adapter is None]

    def metadata(self) -> Metadata:
        """Of each tensor, without gathering."""
        found = []
        for name, parameter in self.parameters():
            shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
            size = torch.Size(shape).numel() * parameter.element_size()
            found.append((name, str(parameter.dtype).removeprefix("torch."), shape, size))
        return found

    def share(self, rank: int, ranks: int) -> Iterator[tuple[int, torch.Tensor, int]]:
        """(place in `metadata`, flat entries, number of the first) of what this rank should write.

        Under ZeRO 3 its shards, as they lie; else whole tensors, shared out by size. Nothing is gathered or copied.
        """
        owners = shares(self.metadata(), ranks)
        for place, (_, parameter) in enumerate(self.parameters()):
            if hasattr(parameter, "ds_tensor"):
                start = rank * parameter.ds_tensor.numel()
                count = min(parameter.ds_tensor.numel(), parameter.ds_numel - start)  # the last shard has filling at its end
                if count > 0:
                    yield place, parameter.ds_tensor.data.view(-1)[:count], start
            elif owners[place] == rank:
                yield place, parameter.data.reshape(-1), 0

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self.iterate()


class SharedMemory:
    """Every rank writes its share where the engines read it."""

    def __init__(self, weights: WholeWeights, opening: Opening):
        self.weights, self.opening = weights, opening
        self.places, size = lay_out(weights.metadata())
        self.files = SharedFiles(opening.tag, size)

    def publish(self, version: int) -> Manifest:
        memory, path = self.files.next()
        return Manifest(version, path, self.places, write_share(self.weights, self.opening, memory, self.places),
                        fingerprints(self.weights, self.opening), adapter=self.weights.adapter)

    def close(self) -> None:
        self.files.close()


class Network:
    """Every rank writes its share into memory of its own, and serves it while the learner goes on. Two take turns."""

    def __init__(self, weights: WholeWeights, opening: Opening):
        self.weights, self.opening = weights, opening
        self.places, size = lay_out(weights.metadata())
        # As large as a whole version, so that a share lies where it belongs; pages that nobody writes to take no memory.
        self.memories = [np.zeros(size, dtype=np.uint8) for _ in range(2)]
        self.server = Server(opening.here, opening.seconds)

    def publish(self, version: int) -> Manifest:
        self.memories.reverse()
        pieces = write_share(self.weights, self.opening, self.memories[0], self.places)
        self.server.hold(version, self.memories[0], pieces)
        return Manifest(version, None, self.places, pieces, fingerprints(self.weights, self.opening),
                        [self.server.source], self.opening.seconds, self.weights.adapter)

    def close(self) -> None:
        self.server.close()


def write_share(weights: WholeWeights, opening: Opening, memory: Any, places: Sequence[TensorPlace]) -> list[Piece]:
    """Copy this rank's share of a version to where it belongs in the whole."""
    return [copying.write(memory, places[place].offset + start * flat.element_size(), flat)
            for place, flat, start in weights.share(opening.rank, opening.ranks)]


def fingerprints(weights: WholeWeights, opening: Opening) -> dict[str, list[float]]:
    """Of this rank's share; they add up over ranks. Empty where nobody asked."""
    if opening.verify is None:
        return {}
    metadata, dtype = weights.metadata(), getattr(torch, opening.verify)
    return {metadata[place][0]: fingerprint(flat, metadata[place][2], dtype, start)
            for place, flat, start in weights.share(opening.rank, opening.ranks)}


def make_publisher(transport: str, weights: WholeWeights, opening: Opening) -> Publisher:
    """The learner's side of a transport; see `weights.choice` for which."""
    if transport == "shared_memory":
        return SharedMemory(weights, opening)
    if transport == "network":
        return Network(weights, opening)
    from scale_rlhf.weights.vllm_transport import VllmTransport

    return VllmTransport(transport, weights, opening)
