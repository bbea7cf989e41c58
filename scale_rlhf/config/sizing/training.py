"""Bytes that a DeepSpeed rank holds: weights, gradients and optimizer as training/deepspeed_config.py has them laid out.

DeepSpeed 0.19, torch's AdamW, gradients summed in float32. `states` is exact; tests/integration/test_sizing.py holds it
against real ranks. Buffers are bounds, read in DeepSpeed's source.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from scale_rlhf.config.roles import Optimisation
from scale_rlhf.config.sizing.parameters import BYTES, Tensor, count, largest

_BUCKET = 500_000_000  # elements: DeepSpeed's reduce_bucket_size where deepspeed_config.py sets none
_LIVE = 1_000_000_000  # parameters that ZeRO 3 keeps gathered: stage3_max_live_parameters, stage3_max_reuse_distance
_SUB_GROUP = 1_000_000_000  # parameters that ZeRO 3 updates at once
_FROZEN_PREFETCH = 50_000_000  # elements: DeepSpeed's own
_MOMENTS = 8  # bytes a parameter: Adam's two, float32
_MASTER = 4


@dataclass(frozen=True)
class States:
    """Bytes of one rank. host: in the node's memory, for what is offloaded."""

    weights: int
    gradients: int
    optimizer: int
    host: int = 0


@dataclass(frozen=True)
class Buffers:
    """Bytes of one rank beside its states. update: while gradients are computed. step: while the optimizer steps."""

    update: int
    step: int


def stage_of(section: Optimisation) -> int:
    """ZeRO stage that really runs: bfloat16 weights without ZeRO run as stage 1."""
    return max(1 if element(section) == 2 else 0, section.zero_stage)


def element(section: Optimisation) -> int:
    """Bytes of a weight: bfloat16 only where there are float32 master weights beside it."""
    return BYTES["float32" if section.autocast else section.dtype]


def states(section: Optimisation, workers: int, tensors: Sequence[Tensor]) -> States:
    """What a rank of `workers` holds from one optimizer step to the next."""
    stage, size = stage_of(section), element(section)
    if stage == 0:
        whole = count(tensors)
        return States(size * whole, 4 * whole, _MOMENTS * whole)
    if stage == 3:
        return _sharded(section, size, partition(tensors, workers), _kept_whole(tensors))
    whole = _flat(section, workers, tensors)
    part = whole // workers
    gradients = 4 * (part if stage == 2 else whole)
    if stage == 1 and size == 2:
        gradients += size * whole  # bfloat16 ones of a backward, before they are added to those in float32
    if section.offload_optimizer:
        host = (_MASTER + 4 + _MOMENTS + size) * part + size * largest(tensors)  # float32 gradients, new weights, one on its way
        return States(size * whole, gradients, 0, host)
    return States(size * whole, gradients, (_MASTER + _MOMENTS) * part)


def adapted(section: Optimisation, workers: int, base: Sequence[Tensor], matrices: Sequence[Tensor]) -> States:
    """The same with LoRA: the base, of which nothing is trained, and the states of the matrices."""
    found, stage, size = states(section, workers, matrices), stage_of(section), element(section)
    if stage != 3:
        return replace(found, weights=found.weights + size * count(base))
    part, kept_whole = size * partition(base, workers), size * _kept_whole(base)
    if section.offload_parameters:
        return replace(found, weights=found.weights + kept_whole, host=found.host + part)
    return replace(found, weights=found.weights + kept_whole + part)


def _sharded(section: Optimisation, size: int, part: int, kept_whole: int) -> States:
    weights, gradients, optimizer, host = size * part, 4 * part, (_MASTER + _MOMENTS) * part, 0
    if section.offload_optimizer:
        host = 2 * gradients + optimizer
        gradients = optimizer = 0
    if section.offload_parameters:
        host, weights = host + weights, 0
    return States(weights + size * kept_whole, gradients, optimizer, host)


def buffers(section: Optimisation, workers: int, tensors: Sequence[Tensor], hidden: int) -> Buffers:
    """Of a rank on a GPU. hidden: width of the model, which sets ZeRO 3's buckets."""
    stage, size = stage_of(section), element(section)
    widest, whole = largest(tensors), count(tensors)
    cast = 2 * whole if section.autocast else 0  # bfloat16 copies of the weights
    if stage == 0:
        return Buffers(4 * min(whole, _BUCKET) + cast, 4 * whole)
    if stage == 3:
        bucket, prefetch = max(hidden * hidden, 1_000_000), int(0.9 * hidden * hidden)
        live = min(whole, _LIVE + widest + prefetch)
        passing = widest + max(bucket, widest)  # a gradient, and its copy on the way
        update = size * (live + bucket + passing) + min(cast, 2 * live)
        part = partition(tensors, workers)
        step = 0 if section.offload_optimizer else 8 * min(part, _SUB_GROUP + ceil(widest / workers))
        return Buffers(update, size * bucket + step)
    part = _flat(section, workers, tensors) // workers
    step = 0 if section.offload_optimizer else (4 if size == 2 else 8) * part
    if stage == 1 and size == 2 and not section.offload_optimizer:
        return Buffers(0, max(step, size * whole))  # gradients are sent as bfloat16, in one piece
    temporary = size * widest if section.offload_optimizer else 0
    twice = 0 if size == 2 else 4 * part  # float32 gradients are added up in a second copy
    return Buffers(size * (2 * _BUCKET + min(whole, _BUCKET) + widest) + temporary + twice + cast, step)


def frozen(tensors: Sequence[Tensor], workers: int, size: int) -> tuple[int, int]:
    """(weights, buffers) of a rank of a frozen model. size: bytes of a weight. More than one worker: ZeRO 3."""
    whole = count(tensors)
    if workers == 1:
        return size * whole, 0
    kept_whole = sum(tensor.size * tensor.times for tensor in tensors if tensor.size <= 10_000)
    live = min(whole, _LIVE + largest(tensors) + _FROZEN_PREFETCH)
    return size * (partition(tensors, workers) + kept_whole), size * live


def partition(tensors: Sequence[Tensor], workers: int) -> int:
    """Parameters of a rank under ZeRO 3: of every tensor its share, filled up to a whole number."""
    return sum(ceil(tensor.size / workers) * tensor.times for tensor in tensors)


def _flat(section: Optimisation, workers: int, tensors: Sequence[Tensor]) -> int:
    """Parameters under ZeRO 1 and 2: laid end to end and filled up to a multiple of 2 · workers, group by group."""
    groups = [tensors]
    if section.weight_decay:
        groups = [[one for one in tensors if (len(one.shape) >= 2) == matrices] for matrices in (True, False)]
    return sum(ceil(count(group) / (2 * workers)) * 2 * workers for group in groups)


def _kept_whole(tensors: Sequence[Tensor]) -> int:
    """Parameters that every rank keeps whole under ZeRO 3, because they are small (stage3_param_persistence_threshold)."""
    hidden = next(tensor.shape[-1] for tensor in tensors if len(tensor.shape) == 2)
    return sum(tensor.size * tensor.times for tensor in tensors if tensor.size <= 10 * hidden)
