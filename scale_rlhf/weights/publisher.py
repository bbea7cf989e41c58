"""The learner's side of publishing: from ZeRO shards to a transport. Every rank of the policy holds a publisher.

`shared_memory` writes a version where engines on the same host load it from; the loop tells each engine when.
`nccl` and `ipc` are vLLM's own and need GPUs: the trainer drives the engines' update itself.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import nn

from scale_rlhf.weights.shared_memory import SharedMemoryPublisher

TRANSPORTS = ("shared_memory", "nccl", "ipc")
Metadata = list[tuple[str, str, tuple[int, ...], int]]


class Publisher(Protocol):
    def publish(self, version: int) -> dict[str, Any] | None:
        """Called on every rank. Returns, on rank 0, the update info that engines load; None where the trainer drives."""

    def close(self) -> None: ...


class WholeWeights:
    """The policy's weights, whole, in Hugging Face names. Iterating gathers ZeRO-3 shards: all ranks in step."""

    def __init__(self, model: nn.Module, iterate: Callable[[], Iterator[tuple[str, torch.Tensor]]]):
        self.model, self.iterate = model, iterate

    def metadata(self) -> Metadata:
        """(name, dtype, whole shape, bytes) of each, without gathering."""
        found = []
        for name, parameter in self.model.named_parameters():
            shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
            size = torch.Size(shape).numel() * parameter.element_size()
            found.append((name, str(parameter.dtype).removeprefix("torch."), shape, size))
        return found

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self.iterate()


class SharedMemory:
    """Rank 0 writes; the others take part in gathering."""

    def __init__(self, weights: WholeWeights, rank: int, tag: str):
        self.weights, self.rank = weights, rank
        self.files = SharedMemoryPublisher(tag) if rank == 0 else None

    def publish(self, version: int) -> dict[str, Any] | None:
        if self.files is None:
            for _ in self.weights:
                pass
            return None
        return self.files.publish(version, self.weights, self.weights.metadata()).update_info()

    def close(self) -> None:
        if self.files is not None:
            self.files.close()


def make_publisher(
    transport: str, weights: WholeWeights, rank: int, tag: str, engines: list, address: tuple[str, int],
) -> Publisher:
    """The one place that chooses the transport. engines: actor handles, address: where nccl meets."""
    if transport == "shared_memory":
        return SharedMemory(weights, rank, tag)
    from scale_rlhf.weights.vllm_transport import VllmTransport

    return VllmTransport(transport, weights, rank, engines, address)
