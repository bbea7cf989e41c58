"""Bytes that a forward and its backward need beside weights and gradients: from what the layers of transformers keep.

Counted, not measured: every tensor that autograd saves, plus the largest that live at the same time for a moment.
tests/integration/test_sizing_activations.py holds them against real forwards and backwards.
"""

from dataclasses import dataclass
from typing import Literal

from scale_rlhf.config.sizing.shapes import Shape

Attention = Literal["sdpa", "eager", "flash_attention_2"]
_TRAINED_LOGITS = 12  # bytes an entry at the peak: log p, p and their product forward; log p and two gradients backward
_LOGPROBS_AT_ONCE = 32_768  # tokens: TRL's _CHUNKED_LOGPROB_CHUNK_SIZE
_SCORED_LOGITS = 8  # logits and log p, float32


@dataclass(frozen=True)
class Forward:
    """One micro-batch. tokens: of it. longest: tokens of its longest sample. element: bytes of the type computed in."""

    shape: Shape
    tokens: int
    longest: int
    element: int
    attention: Attention


def trained(forward: Forward, checkpointing: bool) -> int:
    """Bytes of a forward with gradients, without its logits. checkpointing: layers keep their input alone, one is whole."""
    shape = forward.shape
    inputs, whole = forward.element * shape.hidden, _kept_by_layer(forward)
    kept = shape.layers * inputs + whole if checkpointing else shape.layers * whole
    passing = forward.element * (3 * shape.intermediate + shape.hidden)  # gradients inside one feed-forward
    return forward.tokens * (kept + _kept_by_norm(forward) + passing) + _mask(forward)


def scored(forward: Forward) -> int:
    """Bytes of a forward without gradients, without its logits: what lives at once inside the widest layer."""
    shape = forward.shape
    inside = 4 * forward.element * (shape.intermediate + shape.hidden) + _scores(forward)
    return forward.tokens * inside + _mask(forward)


def trained_logits(forward: Forward) -> int:
    """Of PPO's loss, where every token may be a response token."""
    return _TRAINED_LOGITS * forward.tokens * forward.shape.vocabulary


def scored_logits(forward: Forward) -> int:
    """Of the reference model's log-probabilities."""
    return _SCORED_LOGITS * forward.tokens * forward.shape.vocabulary


def supervised_logits(forward: Forward) -> int:
    """Of instruction tuning: the model's output is kept beside what the loss makes of it."""
    return (_TRAINED_LOGITS + forward.element) * forward.tokens * forward.shape.vocabulary


def preference_logits(forward: Forward) -> int:
    """Of DPO and its kin: TRL takes log p in parts of 32,768 tokens and keeps none of their logits."""
    return _TRAINED_LOGITS * min(forward.tokens, _LOGPROBS_AT_ONCE) * forward.shape.vocabulary


def _kept_by_layer(forward: Forward) -> int:
    """Bytes a token that autograd saves of one layer."""
    shape, element = forward.shape, forward.element
    alike = forward.attention != "flash_attention_2"  # keys and values are repeated for every query head
    heads = 4 * shape.queries if alike else 2 * (shape.queries + shape.keys)
    norms = _kept_by_norm(forward, shape.queries + shape.keys) if shape.head_norms else 0
    return 2 * _kept_by_norm(forward) + element * (heads + 4 * shape.intermediate) + norms + _scores(forward)


def _kept_by_norm(forward: Forward, width: int | None = None) -> int:
    """Bytes a token of an RMS norm: its input in float32, the normalised input, the output."""
    return (4 + 2 * forward.element) * (width or forward.shape.hidden)


def _scores(forward: Forward) -> int:
    """Bytes a token of attention that writes its scores down."""
    written = forward.attention == "eager"
    return (4 + forward.element) * forward.shape.heads * forward.longest if written else 0


def _mask(forward: Forward) -> int:
    """Samples that share a row are kept apart by a mask, true or false and then as a number."""
    return 0 if forward.attention == "flash_attention_2" else forward.tokens * forward.longest * (1 + forward.element)
