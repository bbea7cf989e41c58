"""Weights on one host: the learner copies a version into shared memory, engines load it from there.

Two files take turns, so that a version stays whole while engines still read it and the learner already
writes the next. Files lie in /dev/shm under a prefix that carries the run's tag, and go when the publisher closes.
"""

import mmap
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from scale_rlhf.errors import RunError
from scale_rlhf.weights.manifest import Manifest, TensorPlace, lay_out

FOLDER = Path("/dev/shm")
PREFIX = "scale-rlhf-"


class SharedMemoryPublisher:
    """The learner's side. `publish` is called with the version's tensors in an order that never changes."""

    def __init__(self, tag: str):
        self.paths = [FOLDER / f"{PREFIX}{tag}-weights-{side}" for side in (0, 1)]
        self.maps: list[mmap.mmap | None] = [None, None]
        self.turn = 0

    def publish(
        self, version: int, tensors: Iterable[tuple[str, torch.Tensor]], metadata: list[tuple[str, str, tuple, int]],
    ) -> Manifest:
        """Copy a version and describe it. metadata: (name, dtype, shape, bytes) of each tensor, in order."""
        places, total = lay_out(metadata)
        side, self.turn = self.turn, 1 - self.turn
        memory = self._memory(side, total)
        written = []
        for place, (name, tensor) in zip(places, tensors, strict=True):
            if name != place.name:
                raise RunError(f"weights: {name} came where {place.name} was declared")
            target = _bytes(memory, place)
            target.copy_(tensor.detach().contiguous().reshape(-1).view(torch.uint8))
            checksum = zlib.crc32(memoryview(memory)[place.offset : place.offset + place.size])
            written.append(TensorPlace(place.name, place.dtype, place.shape, place.offset, place.size, checksum))
        return Manifest(version, str(self.paths[side]), written)

    def _memory(self, side: int, size: int) -> mmap.mmap:
        if self.maps[side] is None or len(self.maps[side]) != size:
            free = os.statvfs(FOLDER)
            if size > free.f_bavail * free.f_frsize:
                raise RunError(f"weights: {FOLDER} has {free.f_bavail * free.f_frsize >> 20} MiB left, "
                               f"a version takes {size >> 20} MiB")
            with open(os.open(self.paths[side], os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "r+b") as file:
                file.truncate(size)
                self.maps[side] = mmap.mmap(file.fileno(), size)
        return self.maps[side]

    def close(self) -> None:
        """Remove the files; memory that an engine has mapped lives until it lets go."""
        for path in self.paths:
            path.unlink(missing_ok=True)


def read(path: str, tensors: Iterable[dict]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of a published version, views on the shared pages, each after its checksum was verified.

    tensors: TensorPlace as dicts. Raises RunError that names the tensor whose bytes are not the ones published.
    """
    with open(path, "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # private: torch wants writable memory
    for fields in tensors:
        place = TensorPlace(**fields)
        if zlib.crc32(memoryview(memory)[place.offset : place.offset + place.size]) != place.checksum:
            raise RunError(f"weights: {place.name} in {path} is not what was published (checksum)")
        yield place.name, _bytes(memory, place).view(getattr(torch, place.dtype)).view(place.shape)


def _bytes(memory: mmap.mmap, place: TensorPlace) -> torch.Tensor:
    return torch.frombuffer(memory, dtype=torch.uint8, offset=place.offset, count=place.size)
