"""Keys that nothing would read in this run. What contradicts another key is refused; what another device or schedule
would read is noted, so that one configuration serves both. A key at its default was not asked for. Imports no torch.
"""

from collections.abc import Iterator
from pathlib import Path

from scale_rlhf.config.schema import RunConfig

_SERVED = ("workers", "dtype", "tokens_per_batch", "max_wait_ms")  # of a model that a reward server holds
_CALLED = ("timeout_seconds", "retries", "retry_seconds")  # of a function or a service
_PLACED = ("labels", "resources", "placement")
_OWN_CLUSTER = ("cpus", "gpus", "object_store_gb", "dashboard")


def refused(config: RunConfig) -> Iterator[str]:
    """A message for each key that was set and has no effect beside another one."""
    reward = config.reward
    if reward.function:
        yield from _set(config, "reward", _SERVED, "a reward.function runs in reward.replicas processes and holds no model")
    elif reward.url:
        keys = ("gpus", *_PLACED, *_SERVED)
        yield from _set(config, "reward", keys, "reward.url is a service, and no process of this run is behind it")
    else:
        yield from _set(config, "reward", _CALLED, "it is for a reward.function or reward.url; a model has limits.score_seconds")
    if not reward.retries:
        yield from _set(config, "reward", ("retry_seconds",), "with reward.retries: 0 nothing is tried again")
    yield from _algorithm(config)
    if config.dpo.loss != "cdpo":
        yield from _set(config, "dpo", ("label_smoothing",), f"it is for dpo.loss: cdpo, and dpo.loss is {config.dpo.loss}")
    if config.dpo.loss != "kto":
        why = f"it is for dpo.loss: kto, and dpo.loss is {config.dpo.loss}"
        yield from _set(config, "dpo", ("good_weight", "bad_weight"), why)
    if config.ppo.kl_target is None:
        yield from _set(config, "ppo", ("kl_horizon",), "the KL coefficient is fixed, as ppo.kl_target is null")
    if config.rollout.elastic:
        yield from _set(config, "rollout", ("placement",), "engines {min, max} are placed one by one, wherever there is room")
    if config.rollout.ignore_end:
        yield from _set(config, "rollout", ("stop", "stop_token_ids"), "with rollout.ignore_end nothing ends a response early")
    if config.value.model is not None:
        yield from _set(config, "value", ("initial",), "the value model starts from value.model")
    if config.cluster.address is not None:
        yield from _set(config, "cluster", _OWN_CLUSTER, "it is of a cluster that a run starts, and cluster.address joins one")
    for name in ("base_text", "instructions", "preferences", "prompts", "evaluation"):
        if (source := getattr(config.data, name)) and source.split != "train" and Path(source.path).is_file():
            yield f"data.{name}.split: it is for hub names, and {source.path} is a file; found {source.split}. Leave it out"


def _algorithm(config: RunConfig) -> Iterator[str]:
    """Keys of another way to take advantages, to correct for staleness or to update weights than the one that was chosen."""
    overlap = config.overlap
    if config.ppo.advantages == "group_relative":
        yield from _set(config, "ppo", ("gamma", "lam", "value_clip"), "ppo.advantages: group_relative has no value model")
    else:
        yield from _set(config, "ppo", ("scale_by_std",), "it is for ppo.advantages: group_relative")
    if overlap.correction not in ("truncated", "sequence_mask"):
        yield from _set(config, "overlap", ("correction_cap",), f"overlap.correction: {overlap.correction} has no cap")
    if overlap.correction not in ("token_mask", "sequence_mask") and overlap.correction_band[0] < overlap.correction_band[1]:
        yield from _set(config, "overlap", ("correction_band",), f"overlap.correction: {overlap.correction} has no band")
    if overlap.weight_update == "drain":
        yield from _set(config, "overlap", ("recompute_cache",), "with weight_update: drain no sample goes on over an update")


def noted(config: RunConfig) -> Iterator[str]:
    """A note for each key that was set and is for another device or schedule than this run's."""
    if config.rollout.gpus:
        yield from _set(config, "rollout", ("kv_cache_gb",), "not used on GPUs, where rollout.gpu_memory_utilization says it")
    else:
        yield from _set(config, "rollout", ("gpu_memory_utilization",), "not used without rollout.gpus")
    if config.overlap.max_staleness > 0:
        why = "not used above overlap.max_staleness 0, where samples are scored as they come"
        yield from _set(config, "overlap", ("score_group",), why)
    else:
        why = "not used at overlap.max_staleness 0, where batches are cut by sample index"
        for role in ("reference",) if config.reward.function or config.reward.url else ("reward", "reference"):
            yield from _set(config, role, ("max_wait_ms",), why)


def _set(config: RunConfig, name: str, keys: tuple[str, ...], why: str) -> Iterator[str]:
    section = getattr(config, name)
    for key in keys:
        value, default = getattr(section, key), type(section).model_fields[key].default
        if value != default:
            shown = [str(one).lower() if isinstance(one, bool) else "null" if one is None else one for one in (value, default)]
            yield f"{name}.{key}: {why}; found {shown[0]}. Leave it out (it is then {shown[1]})"
