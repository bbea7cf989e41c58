"""What a configuration asks of machines: host memory of its largest stage, and disk. By arithmetic."""

import math
from dataclasses import dataclass

from scale_rlhf.config.model_files import HubUnreachable, model_files
from scale_rlhf.config.one_base import policy_serves_reference
from scale_rlhf.config.resources import Ask, asks
from scale_rlhf.config.reward_sources import outside, processes, reward_sources
from scale_rlhf.config.roles import FrozenRole, Placed
from scale_rlhf.config.schema import RunConfig, ScratchSection
from scale_rlhf.config.supervised import SUPERVISED
from scale_rlhf.errors import ConfigError

PROCESS = 0.9e9  # bytes of a process of ours with its libraries; measured on CPU: 7 GB for the eight of the quickstart
_BYTES = {"float32": 4, "bfloat16": 2}
_CHECKPOINT = 12  # bytes a parameter: fp32 weights and Adam's two moments


@dataclass(frozen=True)
class Needs:
    """Bytes, and the processes of each stage. parameters: of the policy; None where its size is not known here."""

    parameters: int | None
    memory: float  # of all nodes together
    disk: float  # in the run's folder
    asks: dict[str, list[Ask]]  # by stage


def needs(config: RunConfig, stages: list[str]) -> Needs:
    """Of the stages that will run. What is not known of a hub model that cannot be reached counts as nothing."""
    parameters = _parameters(config)
    memory = max((_memory(config, stage, parameters or 0) for stage in stages), default=0.0)
    return Needs(parameters, memory, _disk(config, stages, parameters or 0), {stage: asks(config, stage) for stage in stages})


def _memory(config: RunConfig, stage: str, parameters: int) -> float:
    """Host memory; a role on GPUs keeps its tensors there, but for what it offloads."""
    if stage in SUPERVISED:
        section = getattr(config, SUPERVISED[stage])
        trained = PROCESS + _trained(section, section.workers, parameters)
        if stage == "best_of_n":
            return max(trained, PROCESS + _engines(config, parameters) + _rewards(config, parameters))
        return trained + _reference_of(section, parameters) if stage == "dpo" else trained
    if stage != "ppo":
        return 3 * PROCESS  # evaluation: one engine
    rollout = config.rollout
    reference = 0 if policy_serves_reference(config) else _scorers(config.reference, parameters)
    frozen = _rewards(config, parameters) + reference
    trained = [config.policy, *([config.value] if config.ppo.critic else [])]
    published = 0 if rollout.gpus or config.policy.lora else 2 * parameters * _BYTES[rollout.dtype]
    return (PROCESS + _engines(config, parameters) + frozen + published
            + sum(_trained(section, section.workers, parameters) for section in trained))


def _engines(config: RunConfig, parameters: int) -> float:
    rollout = config.rollout
    held = 0 if rollout.gpus else parameters * _BYTES[rollout.dtype] + rollout.tensor_parallel * rollout.kv_cache_gb * 1e9
    return rollout.fewest * ((1 + rollout.tensor_parallel) * PROCESS + held)


def _trained(section: Placed, workers: int, parameters: int) -> float:
    """Weights, gradients and optimizer: 16 bytes a parameter over all, ZeRO deciding what each worker has of them. With LoRA
    weights alone: what is trained beside them is little.
    """
    weights, gradients, optimizer = (4, 4, 8) if section.dtype == "float32" else (2, 2, 12)
    if getattr(section, "lora", None):
        gradients = optimizer = 0
    of_one = (weights / (workers if section.zero_stage == 3 else 1) + gradients / (workers if section.zero_stage >= 2 else 1)
              + optimizer / (workers if section.zero_stage >= 1 else 1))
    if section.gpus:
        states = 0 if getattr(section, "lora", None) else 12
        of_one = states / workers * section.offload_optimizer + weights / workers * section.offload_parameters
    return workers * (PROCESS + of_one * parameters)


def _reference_of(section: Placed, parameters: int) -> float:
    """The frozen copy of the model beside each worker of dpo."""
    copies = 0 if section.gpus else 1 if section.zero_stage == 3 else section.workers
    return copies * parameters * (4 if section.autocast else _BYTES[section.dtype])


def _rewards(config: RunConfig, parameters: int) -> float:
    return sum(math.prod(processes(source)) * PROCESS if outside(source) else _scorers(source, parameters)
               for source in reward_sources(config).values())


def _scorers(section: FrozenRole, parameters: int) -> float:
    weights = 0 if section.gpus else parameters * _BYTES[section.dtype] / section.workers
    return section.replicas * section.workers * (PROCESS + weights)


def _disk(config: RunConfig, stages: list[str], parameters: int) -> float:
    """Models, and PPO's checkpoints with the one that is being written."""
    models = 4 * parameters * (len(stages) + 1)
    if "ppo" not in stages or config.checkpoint.save_every is None:
        return models
    roles = sum(section.lora is None for section in (config.policy, *([config.value] if config.ppo.critic else [])))
    kept = config.checkpoint.keep_last + config.checkpoint.keep_best + 1
    exports = config.ppo.steps // config.ppo.export_every if config.ppo.export_every else 0
    return models + kept * roles * _CHECKPOINT * parameters + exports * 4 * parameters


def _parameters(config: RunConfig) -> int | None:
    path = config.policy.model or config.sft.model or config.model.path
    if path is None:
        return _of_scratch(config.model.scratch)
    try:
        text = model_files(path, "model.path").text_config
    except (ConfigError, HubUnreachable):  # `scale-rlhf config` says what is wrong with it
        return None
    try:
        hidden, layers, heads = text["hidden_size"], text["num_hidden_layers"], text["num_attention_heads"]
        return _count(hidden, layers, heads, text.get("num_key_value_heads") or heads, text.get("head_dim") or hidden // heads,
                      text["intermediate_size"], text["vocab_size"], text.get("tie_word_embeddings", True))
    except (KeyError, TypeError):  # of another shape than most
        return None


def _of_scratch(one: ScratchSection) -> int:
    return _count(one.hidden_size, one.layers, one.heads, one.key_value_heads, one.head_dim, one.intermediate_size,
                  one.vocabulary, one.tied_embeddings)


def _count(hidden: int, layers: int, heads: int, kv: int, size: int, inner: int, vocabulary: int, tied: bool) -> int:
    """Of the usual decoder: attention with grouped keys, a gated feed-forward, embeddings."""
    attention = hidden * size * (2 * heads + 2 * kv)
    return math.prod((vocabulary, hidden, 1 if tied else 2)) + layers * (attention + 3 * hidden * inner + 2 * hidden) + hidden
