"""LoRA in training: peft puts an adapter into a model, which keeps its class, its forward and, but for the adapted layers, its
names. On disk there is the whole model with the product added, as if there were no LoRA, and beside it peft's own folder.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import nn

from scale_rlhf.config.roles import LoraSection
from scale_rlhf.errors import ConfigError
from scale_rlhf.models.loading import saved_buffers
from scale_rlhf.weights.adapter import NAME, Adapter, added

FOLDER = "adapter"  # in a model's folder
_HEAD = "score"  # of a classifier: new where it is trained, so it is trained whole


def adapt(model: nn.Module, lora: LoraSection, key: str, seed: int) -> None:
    """Freeze a transformers model, and put an adapter of zeros (B) and noise drawn from `seed` (A) beside its linear layers.

    A classifier's head stays trainable. key: of the section in the configuration. Raises ConfigError where a target is no
    linear layer of the model, or its head.
    """
    from peft import LoraConfig, TaskType, inject_adapter_in_model

    names, head = list(_linear_layers(model)), hasattr(model, _HEAD)
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    for target in targets if isinstance(targets, list) else ():
        if not any(_means(target, name) for name in names):
            known = sorted({name.rpartition(".")[2] for name in names})
            near = get_close_matches(target, known, 1)
            raise ConfigError(f"{key}.target_modules: {target} is no linear layer that an adapter can be put beside; "
                              f"{f'did you mean {near[0]}? ' if near else ''}There are {', '.join(known)}")
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=getattr(lora, "dropout", 0.0), target_modules=targets,
        task_type=TaskType.SEQ_CLS if head else TaskType.CAUSAL_LM,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, NAME)
    if head:
        model.score.requires_grad_(True)


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Inside, an adapted model is what it was before training."""
    layers = [layer for _, layer in _adapted(model)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def adapter(model: nn.Module) -> Adapter:
    """How the matrices of an adapted model are added to its weights."""
    layers = dict(_adapted(model))
    scaling = next(iter(layers.values())).scaling[NAME]
    return Adapter(scaling, [f"{name}.weight" for name, layer in layers.items() if layer.fan_in_fan_out])


@dataclass(frozen=True)
class Export:
    """An adapted model in host memory, for `write`. weights: with the product added, by the names of the model without LoRA."""

    weights: dict[str, torch.Tensor]
    adapter: dict[str, torch.Tensor]  # peft's names
    config: object  # peft's


def export(model: nn.Module, start: str, keep: bool = True) -> Export:
    """Add the products and copy everything to host memory. start: the model's folder or hub name.

    Under ZeRO 3 tensors are gathered one by one: all ranks together, of which those that do not `keep` get nothing.
    """
    weights = {name: tensor.to("cpu", copy=True) for name, tensor in _merged(model) if keep}
    weights |= {name: buffer.cpu() for name, buffer in saved_buffers(model) if keep}
    matrices = {name: tensor.to("cpu", copy=True) for name, tensor in _matrices(model) if keep}
    return Export(weights, matrices, _config(model, start))


def write(exported: Export, folder: str | Path) -> None:
    """peft's folder: adapter_config.json and adapter_model.safetensors, which PeftModel.from_pretrained reads."""
    from safetensors.torch import save_file

    exported.config.save_pretrained(folder)
    save_file(exported.adapter, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})


def _merged(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight whole and in its own type, tied ones once."""
    layers = dict(_adapted(model))
    inside = {id(parameter) for layer in layers.values() for parameter in layer.parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) not in inside:
            with _whole([parameter]):
                yield name, parameter.data
    for name, layer in layers.items():
        base, a, b = layer.get_base_layer(), layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
        with _whole(list(layer.parameters())):
            yield f"{name}.weight", added(base.weight.data, a.data, b.data, layer.scaling[NAME], layer.fan_in_fan_out).to(
                base.weight.dtype)
            if base.bias is not None:
                yield f"{name}.bias", base.bias.data


def _matrices(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What was trained, by the names of peft's file."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            with _whole([parameter]):
                yield f"base_model.model.{name.replace(f'.{NAME}.', '.')}", parameter.data


def _config(model: nn.Module, start: str):
    config = copy.copy(model.peft_config[NAME])
    config.base_model_name_or_path, config.inference_mode = start, True
    config.target_modules = sorted(config.target_modules)
    config.modules_to_save = [_HEAD] if hasattr(model, _HEAD) else None
    return config


def _adapted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


def _linear_layers(model: nn.Module) -> Iterator[str]:
    """Names of the layers that an adapter may be put beside: no head, which may be the embedding, or is trained whole."""
    from transformers.pytorch_utils import Conv1D

    heads = (model.get_output_embeddings(), getattr(model, _HEAD, None))
    return (name for name, module in model.named_modules()
            if isinstance(module, nn.Linear | Conv1D) and not any(module is head for head in heads))


def _means(target: str, name: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _whole(parameters: list[nn.Parameter]) -> AbstractContextManager:
    if not any(hasattr(one, "ds_id") for one in parameters):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)
