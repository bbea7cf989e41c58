"""LoRA's matrices on their way to an engine: it has the weights that training started from, and adds what came to those.

    W = W₀ + alpha/rank · B·A        always from W₀ as it is on disk: nothing is rounded twice, whatever the number of updates
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch

from scale_rlhf.errors import RunError

NAME = "default"  # peft's, of the adapter in training
_A, _B = (f".lora_{side}.{NAME}.weight" for side in "AB")

Named = Iterable[tuple[str, torch.Tensor]]


@dataclass(frozen=True)
class Adapter:
    """How matrices are added. transposed: weights that are kept as [inputs, outputs], such as GPT-2's."""

    scaling: float  # alpha/rank
    transposed: list[str] = field(default_factory=list)


def added(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float, transposed: bool) -> torch.Tensor:
    """W₀ + scaling · B·A in float32, [outputs, inputs]. a: [rank, inputs]. b: [outputs, rank]. transposed: of weight and sum."""
    product = scaling * (b.float() @ a.float())
    return weight.float() + (product.T if transposed else product)


def merged(base: Named, matrices: Named, adapter: Adapter, device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
    """The base's tensors in their order, those that an adapter belongs to with its product added, in float32 on `device`.

    matrices: by the names that they have in training. Raises RunError where one belongs to no tensor of the base.
    """
    pairs = _pairs(matrices)
    for name, tensor in base:
        # A base may be saved without the first part of its names ("transformer."), which the model in training has.
        target = next((one for one in pairs if one == name or one.partition(".")[2] == name), None)
        if target is None:
            yield name, tensor
            continue
        a, b = (one.to(device) for one in pairs.pop(target))
        yield name, added(tensor.to(device), a, b, adapter.scaling, target in adapter.transposed)
    if pairs:
        raise RunError(f"weights: an adapter came for {next(iter(pairs))} and {len(pairs) - 1} more tensors that the files of "
                       "the engine's model do not have. Engine and policy must start from the same model")


def _pairs(matrices: Named) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(A, B) by the name of the weight that they belong to."""
    found = dict(matrices)
    targets = [name.removesuffix(_A) for name in found if name.endswith(_A)]
    return {f"{name}.weight": (found[name + _A], found[name + _B]) for name in targets}
