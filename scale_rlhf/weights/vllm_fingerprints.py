"""Fingerprints of what an engine's worker computes with: each layer asked through its own kernel, packed or not.

Parts of tensor-parallel ranks add up to the whole: a rank passes its slice of the probes, at its place in the
whole tensor; what every rank holds in full counts as 1/ranks of it.
"""

from collections.abc import Iterator

import torch
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    LinearBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

from scale_rlhf.weights.verify import NUMBERS, fingerprint, outputs_fingerprint, probes, weights_of_rows

Parts = Iterator[tuple[str, torch.Tensor, float]]  # (name, its numbers, the share of the whole that they are)
Blocks = list[tuple[int, int, int, float]]  # (rows here, first row in the whole, rows of the whole, share) of each packed tensor


def fingerprints(model: torch.nn.Module, names: set[str]) -> dict[str, list[float]]:
    """NUMBERS numbers for every tensor that was found, in the form of `verify.differences`. names: the learner's."""
    found: dict[str, list[float]] = {}
    with torch.no_grad():
        for path, module in model.named_modules():
            for name, numbers, share in _module(model, path, module, names):
                found[name] = (numbers * share).tolist()
    return found


def _module(model: torch.nn.Module, path: str, module: torch.nn.Module, names: set[str]) -> Parts:
    if isinstance(module, LinearBase):
        yield from _linear(path, module, getattr(model, "packed_modules_mapping", {}))
    elif isinstance(module, ParallelLMHead):
        yield from _head(model, path, module, names)
    elif isinstance(module, VocabParallelEmbedding):
        yield f"{path}.weight", *_embedding(module)
    else:
        for name, parameter in module.named_parameters(path, recurse=False):
            if name in names:
                yield name, _plain(parameter), 1 / get_tensor_model_parallel_world_size()


def _linear(path: str, layer: LinearBase, packed: dict[str, list[str]]) -> Parts:
    columns, first = layer.input_size, 0
    if isinstance(layer, RowParallelLinear):
        columns, first = layer.input_size, layer.tp_rank * layer.input_size_per_partition
    blocks = _blocks(layer)
    here = layer.input_size_per_partition if isinstance(layer, RowParallelLinear) else columns
    outputs = _ask(layer, columns, first, here)
    parent, _, own = path.rpartition(".")
    parts = [f"{parent}.{name}" if parent else name for name in packed.get(own, [own])]
    bias, reached = getattr(layer, "bias", None), 0
    for part, (rows, start, whole, share) in zip(parts, blocks, strict=True):
        y = weights_of_rows(whole)[:, start : start + rows]
        yield f"{part}.weight", outputs_fingerprint(outputs[reached : reached + rows], y), share
        if bias is not None:
            copies = 1 / get_tensor_model_parallel_world_size() if isinstance(layer, RowParallelLinear) else share
            yield f"{part}.bias", outputs_fingerprint(_vector(bias[reached : reached + rows]), y), copies
        reached += rows


def _blocks(layer: LinearBase) -> Blocks:
    """The tensors that a layer's outputs consist of, and this rank's rows of each."""
    if isinstance(layer, QKVParallelLinear):
        rank, size, replicas = layer.tp_rank, layer.head_size, layer.num_kv_head_replicas
        q, k, v = layer.num_heads * size, layer.num_kv_heads * size, layer.num_kv_heads * layer.v_head_size
        heads = layer.total_num_kv_heads
        return [(q, rank * q, layer.total_num_heads * size, 1.0), (k, rank // replicas * k, heads * size, 1 / replicas),
                (v, rank // replicas * v, heads * layer.v_head_size, 1 / replicas)]
    if isinstance(layer, ColumnParallelLinear):
        wholes = layer.output_sizes if isinstance(layer, MergedColumnParallelLinear) else [layer.output_size]
        here = [whole // layer.tp_size for whole in wholes]
        return [(rows, layer.tp_rank * rows, whole, _share(layer)) for rows, whole in zip(here, wholes, strict=True)]
    sharded = isinstance(layer, RowParallelLinear)
    return [(layer.output_size, 0, layer.output_size, _share(layer) if sharded else 1 / get_tensor_model_parallel_world_size())]


def _head(model: torch.nn.Module, path: str, head: ParallelLMHead, names: set[str]) -> Parts:
    """The output head through its own product: a tied one too, whose packed copy may be another than the embedding."""
    outputs = _ask(head, head.embedding_dim, 0, head.embedding_dim)
    numbers, share = _rows_of_vocabulary(head, outputs)
    own = f"{path}.weight"
    if own not in names:
        tied = [f"{name}.weight" for name, module in model.named_modules()
                if isinstance(module, VocabParallelEmbedding) and module is not head and module.weight is head.weight]
        own = f"{own}={tied[0]}" if tied else own
    yield own, numbers, share
    if head.bias is not None:
        yield f"{path}.bias", *_rows_of_vocabulary(head, _vector(head.bias))


def _embedding(layer: VocabParallelEmbedding) -> tuple[torch.Tensor, float]:
    outputs = layer.weight.float().cpu() @ probes(layer.embedding_dim).T
    return _rows_of_vocabulary(layer, outputs)


def _rows_of_vocabulary(layer: VocabParallelEmbedding, outputs: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Rows past the vocabulary are filling."""
    start, end = layer.shard_indices.org_vocab_start_index, layer.shard_indices.org_vocab_end_index
    y = weights_of_rows(layer.org_vocab_size)[:, start:end]
    return outputs_fingerprint(outputs[: end - start], y), _share(layer)


def _ask(layer: torch.nn.Module, columns: int, first: int, here: int) -> torch.Tensor:
    """float32 [rows, NUMBERS]: the layer's own product with columns `first` to `first + here` of the probes."""
    dtype, device = getattr(layer, "params_dtype", None) or layer.weight.dtype, layer.weight.device
    x = probes(columns)[:, first : first + here].contiguous().to(device, dtype)
    return layer.quant_method.apply(layer, x, None).float().cpu().T


def _share(layer: torch.nn.Module) -> float:
    """Of a layer that is sharded over the ranks, unless it is kept out of tensor parallelism."""
    return 1.0 if layer.tp_size > 1 else 1 / get_tensor_model_parallel_world_size()


def _vector(entries: torch.Tensor) -> torch.Tensor:
    """A bias as a matrix of one column: float32 [rows, NUMBERS]."""
    return entries.float().cpu()[:, None] @ probes(1).T


def _plain(parameter: torch.Tensor) -> torch.Tensor:
    numbers = fingerprint(parameter.reshape(-1), tuple(parameter.shape), parameter.dtype)
    return torch.tensor(numbers[:NUMBERS], dtype=torch.float64)
