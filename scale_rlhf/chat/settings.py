"""What one engine, and the reward beside it, is given of this machine. Imports no torch."""

from dataclasses import dataclass
from math import ceil

from scale_rlhf.chat.speakers import Speaker
from scale_rlhf.config.model_files import ModelFiles
from scale_rlhf.config.resources import machine_cpus, machine_gpus
from scale_rlhf.config.roles import Dtype
from scale_rlhf.config.schema import ClusterSection, RewardSection, RunConfig
from scale_rlhf.config.sizing.engine import BLOCK

LONGEST = 4096  # tokens of a conversation, where the model itself allows more: its cache is laid out for so many
TOKENS = 256  # of an answer, where no run says otherwise
_SAMPLES = 2  # at once in an engine: the one that was stopped may still be leaving
_GPU_SHARE = 0.85
_KEPT = ("aspects", "ensemble", "combine", "deviation_coefficient")  # of `reward`: they make the score


@dataclass(frozen=True)
class Wishes:
    """Of whoever chats. None: as the run of each model has it, else the default."""

    temperature: float | None = None
    max_tokens: int | None = None  # of an answer
    system: str | None = None


def engine_config(speaker: Speaker, seats: int, wishes: Wishes) -> RunConfig:
    """A run with this one engine. seats: engines and reward models that share the machine."""
    files, run = speaker.files, speaker.config
    context = min(files.context or LONGEST, LONGEST)
    given = wishes.max_tokens or (run.rollout.max_response_tokens if speaker.run else TOKENS)
    response = min(given, context - 1)
    dtype = run.rollout.dtype if speaker.run else _dtype(files)
    gpus = _gpus(seats)
    rollout = run.rollout.model_copy(update={
        "engines": 1, "tensor_parallel": 1, "dtype": dtype, "max_response_tokens": response, "ignore_end": False,
        "max_concurrent": _SAMPLES, "kv_cache_gb": max(run.rollout.kv_cache_gb, _SAMPLES * _cache_gb(files, context, dtype)),
        "weight_transfer": "shared_memory", "verify_weights": False, "sleep": False,
        "cpus": 1.0, "threads": max(1, machine_cpus() // seats), "labels": {}, "resources": {},
        "gpus": gpus, "gpu_memory_utilization": _GPU_SHARE * (gpus or 1),
    })
    data = run.data.model_copy(update={"max_prompt_tokens": context - response})
    return run.model_copy(update={"rollout": rollout, "data": data})


def reward_config(speaker: Speaker, seats: int) -> RunConfig:
    """A run with this reward model alone: its own score, with its run's aspects and ensemble, and nothing that shapes it."""
    named = speaker.config.reward
    kept = {key: getattr(named, key) for key in _KEPT} if speaker.run else {}
    dtype = named.dtype if speaker.run else _dtype(speaker.files)
    return speaker.config.model_copy(update={"reward": RewardSection(dtype=dtype, cpus=1.0, gpus=_gpus(seats), **kept)})


def cluster_config(seats: int) -> RunConfig:
    """The Ray cluster of a chat: its processes take turns on the CPUs that there are."""
    cpus = max(2 * seats, machine_cpus())  # the reward model is there once for each vocabulary
    return RunConfig(cluster=ClusterSection(cpus=cpus, dashboard=False, object_store_gb=0.1))


def _gpus(seats: int) -> float:
    """GPUs of each process, where this machine has some."""
    there = machine_gpus()
    return 1 / ceil(seats / there) if there else 0.0


def _dtype(files: ModelFiles) -> Dtype:
    """The type that the weights have on disk; 16 bits are bfloat16."""
    return "bfloat16" if (files.config.get("dtype") or files.config.get("torch_dtype")) in ("bfloat16", "float16") else "float32"


def _cache_gb(files: ModelFiles, tokens: int, dtype: Dtype) -> float:
    """GiB of the key-value cache of so many tokens; nothing where the model's files do not tell."""
    sizes = (files.layers, files.key_value_heads, files.head_size)
    if None in sizes:
        return 0.0
    layers, heads, size = sizes
    blocks = ceil(tokens / BLOCK) + 1  # one to spare
    return 2 * layers * heads * size * (4 if dtype == "float32" else 2) * BLOCK * blocks / 2**30
