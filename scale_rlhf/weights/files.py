"""Weights of a model folder, read from its safetensors in a fixed order."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open

Shapes = list[tuple[str, str, tuple[int, ...], int]]


def shapes(model: str) -> Shapes | None:
    """(name, dtype, shape, bytes) of every tensor, in order of name; None where `model` is no local folder."""
    if not Path(model).is_dir():
        return None
    return [(name, str(t.dtype).removeprefix("torch."), tuple(t.shape), t.numel() * t.element_size())
            for name, t in tensors(model)]


def tensors(model: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the folder's safetensors files, in order of name."""
    places = {}
    for path in Path(model).glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            places |= dict.fromkeys(file.keys(), path)
    for name in sorted(places):
        with safe_open(places[name], framework="pt") as file:
            yield name, file.get_tensor(name)
