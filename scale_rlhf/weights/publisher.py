"""The learner's side of publishing: from ZeRO shards to a transport. Every rank of the policy holds a publisher.

`shared_memory` writes a version where engines on the same host load it from, `broadcast` sends it over the network;
the loop tells each engine when. `nccl` and `ipc` are vLLM's own and need GPUs: the trainer drives the engines' update.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from scale_rlhf.weights import copying
from scale_rlhf.weights.manifest import Manifest, Metadata, Piece, lay_out, shares
from scale_rlhf.weights.shared_memory import SharedFiles, write_all
from scale_rlhf.weights.verify import fingerprint


@dataclass(frozen=True)
class Opening:
    """What a publisher is told about the run. engines: (actors, workers of each). address: where a group meets."""

    rank: int
    ranks: int
    tag: str  # of the run, in file names
    engines: tuple[list, int] = field(default=((), 1))
    address: tuple[str, int] = ("127.0.0.1", 0)
    seconds: float = 300.0  # deadline of a version
    verify: str | None = None  # the type that engines compute in, where they are to prove what they hold


class Publisher(Protocol):
    meeting: dict[str, Any] | None  # what engines need to know to join, if they must; rank 0's

    def publish(self, version: int) -> Manifest | None:
        """Called on every rank. Returns what this rank wrote, for engines to load; None where it has nothing to say."""

    def close(self) -> None: ...


class WholeWeights:
    """The policy's weights in Hugging Face names: whole, or as this rank's share.

    Iterating gathers ZeRO-3 shards: all ranks in step.
    """

    def __init__(self, model: nn.Module, iterate: Callable[[], Iterator[tuple[str, torch.Tensor]]]):
        self.model, self.iterate = model, iterate

    def metadata(self) -> Metadata:
        """Of each tensor, without gathering."""
        found = []
        for name, parameter in self.model.named_parameters():
            shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
            size = torch.Size(shape).numel() * parameter.element_size()
            found.append((name, str(parameter.dtype).removeprefix("torch."), shape, size))
        return found

    def share(self, rank: int, ranks: int) -> Iterator[tuple[int, torch.Tensor, int]]:
        """(place in `metadata`, flat entries, number of the first) of what this rank should write.

        Under ZeRO 3 its shards, as they lie; else whole tensors, shared out by size. Nothing is gathered or copied.
        """
        owners = shares(self.metadata(), ranks)
        for place, parameter in enumerate(self.model.parameters()):
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
    """Every rank writes its share."""

    meeting = None

    def __init__(self, weights: WholeWeights, opening: Opening):
        self.weights, self.opening = weights, opening
        self.places, size = lay_out(weights.metadata())
        self.files = SharedFiles(opening.tag, size)

    def publish(self, version: int) -> Manifest:
        memory, path = self.files.next()
        pieces = [copying.write(memory, self.places[place].offset + start * flat.element_size(), flat)
                  for place, flat, start in self.weights.share(self.opening.rank, self.opening.ranks)]
        return Manifest(version, path, self.places, pieces, fingerprints(self.weights, self.opening))

    def close(self) -> None:
        self.files.close()


class Broadcast:
    """Rank 0 copies a version into memory of its own and sends it from there, while the learner goes on.

    Under ZeRO 3 the others take part in gathering. The next version waits until this one has left.
    """

    def __init__(self, weights: WholeWeights, opening: Opening):
        self.weights, self.opening, self.sender, self.meeting = weights, opening, None, None
        self.places, size = lay_out(weights.metadata())
        if opening.rank == 0:
            from scale_rlhf.weights.broadcast import Sender

            actors, workers = opening.engines
            self.memory = np.zeros(size, dtype=np.uint8)
            self.sender = Sender(opening.address[0], len(actors) * workers, opening.seconds)
            self.meeting = self.sender.meeting

    def publish(self, version: int) -> Manifest:
        if self.sender is not None:
            self.sender.wait()
        pieces: list[Piece] = []
        if self.sender is not None:
            pieces += write_all(self.memory, self.places, self.weights)
            self.sender.send(version, self.memory)
        elif any(hasattr(parameter, "ds_tensor") for parameter in self.weights.model.parameters()):
            for _ in self.weights:
                pass
        return Manifest(version, None, self.places, pieces, fingerprints(self.weights, self.opening))

    def close(self) -> None:
        """A send that still runs ends with the process."""


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
    if transport == "broadcast":
        return Broadcast(weights, opening)
    from scale_rlhf.weights.vllm_transport import VllmTransport

    return VllmTransport(transport, weights, opening)
