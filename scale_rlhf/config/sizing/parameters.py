"""The parameters of a model, tensor by tensor: exact, from its shape."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Literal

from scale_rlhf.config.sizing.shapes import Shape

Head = Literal["language", "scalar"]
Split = Literal["whole", "even", "key_value", "vocabulary"]  # over the ranks of an engine
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Tensor:
    """`times` tensors alike, one in each layer. split: how tensor parallelism cuts them."""

    name: str
    shape: tuple[int, ...]
    times: int = 1
    split: Split = "even"

    @property
    def size(self) -> int:
        """Parameters of one of them."""
        return prod(self.shape)


@cache
def tensors(shape: Shape, head: Head = "language") -> tuple[Tensor, ...]:
    """Every parameter, tied ones once. head: "language", or "scalar" (one number a token: reward and value models)."""
    outer = [
        Tensor("model.embed_tokens.weight", (shape.vocabulary, shape.hidden), split="vocabulary"),
        Tensor("model.norm.weight", (shape.hidden,), split="whole"),
    ]
    if head == "scalar":
        outer.append(Tensor("score.weight", (1, shape.hidden), split="whole"))
    elif not shape.tied:
        outer.append(Tensor("lm_head.weight", (shape.vocabulary, shape.hidden), split="vocabulary"))
    return (*outer, *_layer(shape))


def count(tensors: Sequence[Tensor]) -> int:
    """Parameters of all of them."""
    return sum(tensor.size * tensor.times for tensor in tensors)


def largest(tensors: Sequence[Tensor]) -> int:
    """Parameters of the largest single tensor."""
    return max(tensor.size for tensor in tensors)


def layer_count(shape: Shape) -> int:
    """Parameters of one transformer layer."""
    return sum(tensor.size for tensor in _layer(shape))


def _layer(shape: Shape) -> Iterator[Tensor]:
    for name, tensor_shape, split in (
        *_attention(shape), *_feed_forward(shape),
        ("input_layernorm.weight", (shape.hidden,), "whole"), ("post_attention_layernorm.weight", (shape.hidden,), "whole"),
    ):
        yield Tensor(f"model.layers.*.{name}", tensor_shape, shape.layers, split)


def _attention(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], Split]]:
    hidden, queries, keys = shape.hidden, shape.queries, shape.keys
    for name, width, split in (("q", queries, "even"), ("k", keys, "key_value"), ("v", keys, "key_value")):
        yield f"self_attn.{name}_proj.weight", (width, hidden), split
        if shape.query_bias:
            yield f"self_attn.{name}_proj.bias", (width,), split
    yield "self_attn.o_proj.weight", (hidden, queries), "even"
    if shape.output_bias:
        yield "self_attn.o_proj.bias", (hidden,), "whole"
    if shape.head_norms:
        yield "self_attn.q_norm.weight", (shape.head_size,), "whole"
        yield "self_attn.k_norm.weight", (shape.head_size,), "whole"


def _feed_forward(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], Split]]:
    hidden, wide = shape.hidden, shape.intermediate
    for name, rows, columns in (("gate", wide, hidden), ("up", wide, hidden), ("down", hidden, wide)):
        yield f"mlp.{name}_proj.weight", (rows, columns), "even"
        if shape.feed_forward_bias:
            yield f"mlp.{name}_proj.bias", (rows,), "whole" if name == "down" else "even"
