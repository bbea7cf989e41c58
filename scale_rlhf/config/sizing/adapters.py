"""The matrices that LoRA trains, from the tensors of the model that it leaves as it is."""

from collections.abc import Iterator, Sequence

from scale_rlhf.config.roles import LoraSection
from scale_rlhf.config.sizing.parameters import Tensor


def trained(tensors: Sequence[Tensor], lora: LoraSection) -> Iterator[Tensor]:
    """A and B of each linear layer that lora.target_modules names, and the head of a model with one number a token."""
    for tensor in tensors:
        *_, layer, kind = tensor.name.split(".")
        inside = tensor.name.startswith("model.layers.") and len(tensor.shape) == 2 and kind == "weight"
        if layer == "score":
            yield tensor
        elif inside and (lora.target_modules == "all-linear" or layer in lora.target_modules):
            rows, columns = tensor.shape
            yield Tensor(f"{tensor.name}.A", (lora.rank, columns), tensor.times)
            yield Tensor(f"{tensor.name}.B", (rows, lora.rank), tensor.times)
