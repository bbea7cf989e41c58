"""Bytes of a rank of a vLLM engine, and which tensor_parallel a model allows."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from scale_rlhf.config.sizing.parameters import Tensor, largest, layer_count
from scale_rlhf.config.sizing.shapes import Shape

_PADDING = 64  # vLLM fills the vocabulary up to a multiple of this
BLOCK = 16  # tokens of a block of the cache
_BATCHED_TOKENS = 8192  # that vLLM 0.32 computes at once, where nobody says otherwise, on a GPU of 70 GB or more
_GRAPHS = 2_000_000_000  # bytes: CUDA graphs, context and communication, by vLLM's own account
PACKED = 2 << 30  # bytes: weights arrive in two buffers of 1 GiB, each closed by the tensor that fills it


@dataclass(frozen=True)
class Cut:
    """What tensor parallelism cuts. None: not known, and not checked."""

    heads: int | None
    key_value_heads: int | None
    intermediate: int | None
    vocabulary: int | None


def cut(shape: Shape) -> Cut:
    """What tensor parallelism cuts of a model of that shape."""
    return Cut(shape.heads, shape.key_value_heads, shape.intermediate, shape.vocabulary)


def tensor_parallel_problem(sizes: Cut, ranks: int) -> str | None:
    """Why a model cannot be cut over so many ranks, with the nearest numbers that it can; None where it can."""
    problem = _problem(sizes, ranks)
    if problem is None:
        return None
    valid = [other for other in range(1, (sizes.heads or ranks) + 1) if _problem(sizes, other) is None]
    below, above = ([other for other in valid if (other < ranks) == under] for under in (True, False))
    near = [str(one) for one in (*below[-1:], *above[:1])]
    return f"{problem}; found {ranks}. The nearest that fits is {' or '.join(near)}"


def _problem(sizes: Cut, ranks: int) -> str | None:
    heads = sizes.key_value_heads
    if sizes.heads and sizes.heads % ranks:
        return f"must divide the model's {sizes.heads} attention heads"
    if heads and max(heads, ranks) % min(heads, ranks):
        return f"must divide the model's {heads} key-value heads, or be a multiple of them"
    if sizes.intermediate and sizes.intermediate % ranks:
        return f"must divide the model's feed-forward width of {sizes.intermediate}"
    if sizes.vocabulary and _padded(sizes.vocabulary) % ranks:
        return f"must divide the model's vocabulary, which vLLM fills up to {_padded(sizes.vocabulary)} tokens"
    return None


def weights(tensors: Sequence[Tensor], shape: Shape, ranks: int, size: int) -> int:
    """Bytes of one rank. size: of a weight."""
    return size * sum(_share(tensor, shape, ranks) * tensor.times for tensor in tensors)


def cache_bytes(shape: Shape, ranks: int, size: int) -> int:
    """Bytes of the cache of one token in one rank: keys and values of every layer, heads repeated where there are fewer."""
    heads = ceil(shape.key_value_heads / ranks)
    return 2 * shape.layers * heads * shape.head_size * size


def longest_cache(shape: Shape, ranks: int, size: int, tokens: int) -> int:
    """Bytes of the cache of one sequence of so many tokens: whole blocks."""
    return ceil(tokens / BLOCK) * BLOCK * cache_bytes(shape, ranks, size)


def working(shape: Shape, ranks: int, size: int, concurrent: int) -> int:
    """Bytes inside the engine's share beside weights and cache: a bound. concurrent: sequences that are sampled at once."""
    inside = size * (3 * shape.intermediate // ranks + 6 * shape.hidden) * _BATCHED_TOKENS
    return inside + 12 * concurrent * shape.vocabulary + _GRAPHS


def arriving(tensors: Sequence[Tensor], shape: Shape, ranks: int, size: int) -> int:
    """Bytes outside the engine's share while new weights arrive: vLLM's buffers, and a layer that is made anew."""
    return PACKED + size * (largest(tensors) + layer_count(shape) // ranks)


def _share(tensor: Tensor, shape: Shape, ranks: int) -> int:
    if tensor.split == "whole":
        return tensor.size
    if tensor.split == "vocabulary":
        return ceil(_padded(shape.vocabulary) / ranks) * tensor.shape[1]
    if tensor.split == "key_value":
        return tensor.size // shape.key_value_heads * ceil(shape.key_value_heads / ranks)
    return ceil(tensor.size / ranks)


def _padded(vocabulary: int) -> int:
    return ceil(vocabulary / _PADDING) * _PADDING
