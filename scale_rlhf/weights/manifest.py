"""What a published version is: which tensors, where their bytes lie, who wrote which piece, and a checksum of each piece."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from scale_rlhf.errors import RunError
from scale_rlhf.weights.adapter import Adapter

ALIGNMENT = 64  # bytes; every tensor starts on a cache line

Metadata = Sequence[tuple[str, str, tuple[int, ...], int]]  # (name, dtype, shape, bytes) of each tensor, in order


@dataclass(frozen=True)
class TensorPlace:
    name: str
    dtype: str  # torch's name, "float32"
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the version
    size: int  # bytes


@dataclass(frozen=True)
class Piece:
    """Bytes that one rank wrote in one go: a tensor, or a shard of one."""

    offset: int  # bytes from the start of the version
    size: int  # bytes
    checksum: int  # xxh3 of the bytes, 64 bits


@dataclass(frozen=True)
class Source:
    """Where a rank serves what it wrote. key: hexadecimal, of whoever may fetch it; it travels with the manifest alone."""

    address: str
    port: int
    key: str = field(repr=False)


@dataclass(frozen=True)
class Manifest:
    """A version, or what one rank wrote of it. Its bytes are in a file in shared memory (path), or fetched (sources).

    adapter: the tensors are LoRA's matrices, and engines have the weights that they are added to; None: whole weights.
    """

    version: int
    path: str | None
    tensors: list[TensorPlace]
    pieces: list[Piece]
    fingerprints: dict[str, list[float]] = field(default_factory=dict)  # by tensor; see weights.verify
    sources: list[Source] = field(default_factory=list)
    seconds: float = 0.0  # deadline of fetching
    adapter: Adapter | None = None

    def update_info(self) -> dict[str, Any]:
        """The form that travels to the engines' workers."""
        return asdict(self)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(place.size for place in self.tensors)


def lay_out(metadata: Metadata) -> tuple[list[TensorPlace], int]:
    """Places of tensors laid end to end, and the bytes that they take with the gaps between them."""
    places, offset = [], 0
    for name, dtype, shape, size in metadata:
        places.append(TensorPlace(name, dtype, tuple(shape), offset, size))
        offset += _aligned(size)
    return places, version_size(places)


def version_size(places: Sequence[TensorPlace]) -> int:
    """Bytes from the first tensor to the last, with the gaps."""
    return max((place.offset + _aligned(place.size) for place in places), default=ALIGNMENT)


def merge(parts: Sequence[Manifest]) -> Manifest:
    """One manifest of what several ranks wrote of one version.

    Fingerprints of a tensor's parts add up. Raises RunError that names the first tensor of which bytes are missing,
    or were written twice.
    """
    first = parts[0]
    if any((part.version, part.path) != (first.version, first.path) for part in parts):
        versions = sorted({part.version for part in parts})
        raise RunError(f"weights: the policy's ranks published different things as one version (versions {versions})")
    pieces = sorted((piece for part in parts for piece in part.pieces), key=lambda piece: piece.offset)
    _check_whole(first.tensors, pieces, first.version)
    fingerprints: dict[str, list[float]] = {}
    for part in parts:
        for name, numbers in part.fingerprints.items():
            fingerprints[name] = [a + b for a, b in zip(fingerprints.get(name, [0.0] * len(numbers)), numbers, strict=True)]
    sources = [source for part in parts for source in part.sources]
    return replace(first, pieces=pieces, fingerprints=fingerprints, sources=sources)


def shares(metadata: Metadata, ranks: int) -> list[int]:
    """Which rank writes each tensor, so that all write about as many bytes: the largest first, to who has least."""
    loads, owners = [0] * ranks, [0] * len(metadata)
    for place in sorted(range(len(metadata)), key=lambda place: -metadata[place][3]):
        owners[place] = loads.index(min(loads))
        loads[owners[place]] += metadata[place][3]
    return owners


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _check_whole(places: Sequence[TensorPlace], pieces: Sequence[Piece], version: int) -> None:
    remaining = iter(pieces)
    for place in places:
        reached = place.offset
        while reached < place.offset + place.size:
            piece = next(remaining, None)
            if piece is None or piece.offset != reached or reached + piece.size > place.offset + place.size:
                wrong = "are missing" if piece is None or piece.offset > reached else "were written twice"
                raise RunError(f"weights: version {version}: bytes of {place.name} {wrong}, from byte {reached - place.offset}")
            reached += piece.size
    if next(remaining, None) is not None:
        raise RunError(f"weights: version {version}: more was written than the tensors that it is made of")
