"""The state of training on disk: fp32 weights, Adam's moments, counts. Each rank writes what it keeps; any number may read.

A file a rank, in safetensors: flat pieces of parameters, each with the place where it begins. Nothing is gathered and
nothing is pickled, and neither the number of ranks nor the ZeRO stage is part of the format: a rank reads the slices that
it keeps, whoever wrote them. Weights in bfloat16 follow from the fp32 ones, as they do after an optimizer step.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from scale_rlhf.disk import writing
from scale_rlhf.errors import RunError
from scale_rlhf.orchestration.checksums import Described, describe_file
from scale_rlhf.weights.manifest import shares

KINDS = ("weight", "exp_avg", "exp_avg_sq")  # the moments by torch's names for AdamW's state
RANDOM = "random"  # torch's generator of the rank



@dataclass(frozen=True)
class Share:
    """What a rank keeps of one parameter: entries start … start + count of the flat whole. read(kind), write(kind, values)."""

    name: str
    start: int
    count: int
    read: Callable[[str], torch.Tensor]
    write: Callable[[str, torch.Tensor], None]


def capture(engine, model: nn.Module, rank: int, ranks: int) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """A copy of this rank's state in memory, and the counts that belong to it: what `write` takes. Training may go on."""
    if not any("step" in one for one in engine.basic_optimizer.state.values()):
        _make_moments(engine, 0)  # of a policy that waits for its value model's pretraining
    owners = shares([(name, "", (), _size(p)) for name, p in model.named_parameters()], ranks)
    tensors = {RANDOM: torch.get_rng_state()}
    for place, share in _shares(engine, model, rank):
        if _is_sharded(engine) or owners[place] == rank:
            for kind in KINDS:
                tensors[f"{kind}:{share.start}:{share.name}"] = share.read(kind).detach().to("cpu", torch.float32, copy=True)
    states = engine.basic_optimizer.state
    steps = next(int(state["step"]) for state in states.values() if "step" in state)
    return tensors, {"optimizer_steps": str(steps), "global_steps": str(engine.global_steps)}


def write(folder: Path | str, rank: int, captured: tuple[dict[str, torch.Tensor], dict[str, str]]) -> Described:
    """Write what `capture` took. Returns the file's size and checksum, by its name."""
    path = Path(folder) / f"rank-{rank:04d}.safetensors"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(captured[0], path, metadata=captured[1])
        return {path.name: describe_file(path)}


def restore(engine, model: nn.Module, folder: Path | str, rank: int) -> None:
    """Put the state of `folder` into an engine that has not made a step. All ranks together.

    Raises RunError where the folder holds another model.
    """
    pieces = Pieces(folder)
    _make_moments(engine, pieces.counts["optimizer_steps"])
    for _, share in _shares(engine, model, rank):
        for kind in KINDS:
            share.write(kind, pieces.read(share.name, kind, share.start, share.count))
    _restore_weights(model, pieces, rank)
    _set_counts(engine, pieces.counts["global_steps"])
    if (random := pieces.random(rank)) is not None:
        torch.set_rng_state(random)


class Pieces:
    """All that the ranks wrote into a folder, by name and kind."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        paths = sorted(self.folder.glob("rank-*.safetensors"))
        if not paths:
            raise RunError(f"{self.folder}: no state of training in it")
        self._files = {path.name: safe_open(path, framework="pt") for path in paths}
        self._places: dict[tuple[str, str], list[tuple[int, int, str, str]]] = {}  # [(start, count, file, key)]
        for name, file in self._files.items():
            for key in file.keys():  # noqa: SIM118 - not a dict
                if key != RANDOM:
                    kind, start, parameter = key.split(":", 2)
                    count = math.prod(file.get_slice(key).get_shape())
                    self._places.setdefault((parameter, kind), []).append((int(start), count, name, key))
        self.counts = {key: int(count) for key, count in next(iter(self._files.values())).metadata().items()}

    def read(self, parameter: str, kind: str, start: int, count: int) -> torch.Tensor:
        """Entries start … start + count of the flat whole, float32. RunError where they are not all there."""
        found, missing = torch.empty(count), count
        for begin, length, name, key in self._places.get((parameter, kind), ()):
            low, high = max(start, begin), min(start + count, begin + length)
            if low < high:
                found[low - start : high - start] = self._files[name].get_slice(key)[low - begin : high - begin]
                missing -= high - low
        if missing:
            raise RunError(f"{self.folder}: holds another model: {parameter} ({kind}) lacks {missing} of {count} entries")
        return found

    def random(self, rank: int) -> torch.Tensor | None:
        """The state of that rank's generator; None where there was no such rank."""
        file = self._files.get(f"rank-{rank:04d}.safetensors")
        return None if file is None else file.get_tensor(RANDOM)


def _shares(engine, model: nn.Module, rank: int) -> Iterator[tuple[int, Share]]:
    """(place among the model's parameters, what this rank keeps of it); without ZeRO every rank keeps all."""
    for place, (name, parameter) in enumerate(model.named_parameters()):
        if not parameter.requires_grad:
            continue
        if hasattr(parameter, "ds_id"):
            share = _shard(parameter, name, rank)
        elif _is_sharded(engine):
            share = _fragment(engine.basic_optimizer, parameter, name)
        else:
            share = _whole(engine.basic_optimizer, parameter, name)
        if share is not None:
            yield place, share


def _shard(parameter: nn.Parameter, name: str, rank: int) -> Share | None:
    """ZeRO 3. The last shard has filling at its end."""
    from deepspeed.utils import (
        safe_get_local_fp32_param,
        safe_get_local_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    size = parameter.ds_tensor.numel()
    start = rank * size
    count = min(size, parameter.ds_numel - start)

    def read(kind: str) -> torch.Tensor:
        whole = safe_get_local_fp32_param(parameter) if kind == "weight" else safe_get_local_optimizer_state(parameter, kind)
        return whole.view(-1)[:count]

    def write(kind: str, values: torch.Tensor) -> None:
        filled = torch.zeros(size)
        filled[:count] = values
        if kind == "weight":
            safe_set_local_fp32_param(parameter, filled)
        else:
            safe_set_local_optimizer_state(parameter, filled, kind)

    return Share(name, start, count, read, write) if count > 0 else None


def _fragment(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, name: str) -> Share | None:
    """ZeRO 1 and 2: a rank keeps a range of all parameters laid end to end; None where it has nothing of this one."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    flat, place = optimizer.param_groups[mapping.param_group_index]["params"][0], mapping.hp_fragment_address

    def read(kind: str) -> torch.Tensor:
        whole = flat if kind == "weight" else optimizer.state[flat][kind]
        return whole.data.narrow(0, place.start, place.numel)

    address = mapping.lp_fragment_address
    return Share(name, address.start, address.numel, read, lambda kind, values: read(kind).copy_(values))


def _whole(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, name: str) -> Share:
    def read(kind: str) -> torch.Tensor:
        return (parameter if kind == "weight" else optimizer.state[parameter][kind]).data.view(-1)

    return Share(name, 0, parameter.numel(), read, lambda kind, values: read(kind).copy_(values))


def _is_sharded(engine) -> bool:
    """Whether DeepSpeed keeps fp32 weights of its own, in flat groups; without ZeRO in fp32 it does not."""
    return engine.optimizer is not engine.basic_optimizer


def _make_moments(engine, steps: int) -> None:
    """torch makes AdamW's state at the first step: here it is made before."""
    optimizer = engine.basic_optimizer
    flats = getattr(engine.optimizer, "fp32_partitioned_groups_flat", None)  # ZeRO 3: a group may be cut into several
    for flat in flats or [one for group in optimizer.param_groups for one in group["params"]]:
        optimizer.state[flat] = {"step": torch.tensor(float(steps))} | {kind: torch.zeros_like(flat.data) for kind in KINDS[1:]}


def _restore_weights(model: nn.Module, pieces: Pieces, rank: int) -> None:
    """What the model computes with, in its own type. Under ZeRO 3 rank 0 reads, and the others get their shards from it."""
    import deepspeed

    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        size = math.prod(getattr(parameter, "ds_shape", parameter.shape))
        sharded = hasattr(parameter, "ds_id")
        with torch.no_grad(), deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=sharded):
            if rank == 0 or not sharded:
                parameter.data.copy_(pieces.read(name, "weight", 0, size).view(parameter.shape))


def _set_counts(engine, steps: int) -> None:
    """Optimizer steps made, and the learning rate that belongs to the next one under this configuration."""
    engine.global_steps = steps
    scheduler = engine.lr_scheduler
    scheduler.last_epoch, scheduler._step_count = steps, steps + 1
    rates = [base * factor(steps) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    scheduler._last_lr = rates
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _size(parameter: nn.Parameter) -> int:
    return math.prod(getattr(parameter, "ds_shape", parameter.shape))
