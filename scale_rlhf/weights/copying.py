"""Bytes of tensors into host memory and back, with checksums that are made while the bytes are still in the cache."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import xxhash

from scale_rlhf.errors import RunError
from scale_rlhf.weights.manifest import Piece, TensorPlace

CHUNK = 1 << 20  # bytes; copied and then read again for the checksum, so it should fit a core's cache


def write(memory: Any, offset: int, tensor: torch.Tensor) -> Piece:
    """Copy a tensor's bytes to `offset` of a writable buffer, with the process's threads; from a GPU too."""
    source = tensor.detach().reshape(-1).view(torch.uint8)
    size = source.numel()
    target, written = torch.frombuffer(memory, dtype=torch.uint8, offset=offset, count=size), xxhash.xxh3_64()
    view, step = memoryview(memory)[offset : offset + size], CHUNK if source.device.type == "cpu" else max(size, 1)
    for start in range(0, size, step):
        target[start : start + step].copy_(source[start : start + step])
        written.update(view[start : start + step])
    return Piece(offset, size, written.intdigest())


def verify(memory: Any, pieces: Iterable[Piece], places: Sequence[TensorPlace], where: str) -> None:
    """Whether the bytes are those that were published. Raises RunError that names the tensor where they are not."""
    view = memoryview(memory)
    for piece in pieces:
        if xxhash.xxh3_64_intdigest(view[piece.offset : piece.offset + piece.size]) != piece.checksum:
            name = next(place.name for place in places if place.offset <= piece.offset < place.offset + place.size)
            raise RunError(f"weights: {name} in {where} is not what was published (checksum)")


def tensors(memory: Any, places: Iterable[TensorPlace]) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor): views on the buffer, not copies; not to be written to."""
    for place in places:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that the buffer is read-only, as it should be
            flat = torch.frombuffer(memory, dtype=torch.uint8, offset=place.offset, count=place.size)
        yield place.name, flat.view(getattr(torch, place.dtype)).view(tuple(place.shape))
