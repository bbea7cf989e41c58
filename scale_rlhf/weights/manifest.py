"""What a published version is: where its bytes lie, which tensors they are, and a checksum of each."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

ALIGNMENT = 64  # bytes; every tensor starts on a cache line


@dataclass(frozen=True)
class TensorPlace:
    name: str
    dtype: str  # torch's name, "float32"
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    size: int  # bytes
    checksum: int = 0  # crc32 of the bytes


@dataclass(frozen=True)
class Manifest:
    version: int
    path: str
    tensors: list[TensorPlace]

    def update_info(self) -> dict[str, Any]:
        """The form that vLLM's `update_weights` carries to its workers."""
        return asdict(self)

    @property
    def size(self) -> int:
        return sum(place.size for place in self.tensors)


def lay_out(metadata: Sequence[tuple[str, str, tuple[int, ...], int]]) -> tuple[list[TensorPlace], int]:
    """Places of tensors laid end to end. metadata: (name, dtype, shape, bytes). Returns places and the file's size."""
    places, offset = [], 0
    for name, dtype, shape, size in metadata:
        places.append(TensorPlace(name, dtype, tuple(shape), offset, size))
        offset += -(-size // ALIGNMENT) * ALIGNMENT
    return places, max(offset, ALIGNMENT)
