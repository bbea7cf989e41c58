"""Keys that nothing would read in this run. What contradicts another key is refused; what another device or schedule
would read is noted, so that one configuration serves both. A key at its default was not asked for. Imports no torch.
"""

from collections.abc import Iterator
from pathlib import Path

from scale_rlhf.config.methods import ADVANTAGES, readers
from scale_rlhf.config.one_base import policy_serves_reference
from scale_rlhf.config.reward_sources import judge_sources, outside, reward_sources
from scale_rlhf.config.roles import Section
from scale_rlhf.config.schema import RewardSource, RunConfig, ScoreSource

# Of a model that a reward server holds.
_SERVED = ("workers", "dtype", "tokens_per_batch", "max_wait_ms", "aspects", "ensemble", "combine", "deviation_coefficient")
_CALLED = ("timeout_seconds", "retries", "retry_seconds")  # of a function or a service
_PLACED = ("labels", "resources", "placement")
_OWN_CLUSTER = ("cpus", "gpus", "object_store_gb", "dashboard")


def refused(config: RunConfig) -> Iterator[str]:
    """A message for each key that was set and has no effect beside another one."""
    if config.reward.mix:
        keys = tuple(key for key in RewardSource.model_fields)
        yield from _set(config, "reward", keys, "with reward.mix it is a key of each source in it")
    for where, source in (reward_sources(config) | judge_sources(config)).items():
        yield from _of_source(where, source)
    yield from _evaluation(config)
    yield from _feedback(config)
    yield from _algorithm(config)
    if config.dpo.loss != "cdpo":
        yield from _set(config, "dpo", ("label_smoothing",), f"it is for dpo.loss: cdpo, and dpo.loss is {config.dpo.loss}")
    if config.dpo.loss != "kto":
        why = f"it is for dpo.loss: kto, and dpo.loss is {config.dpo.loss}"
        yield from _set(config, "dpo", ("good_weight", "bad_weight"), why)
    if config.ppo.kl_target is None:
        yield from _set(config, "ppo", ("kl_horizon",), "the KL coefficient is fixed, as ppo.kl_target is null")
    if config.evaluation.every is None:
        why = "nothing is evaluated during training, as evaluation.every is null"
        yield from _set(config, "evaluation", ("during_prompts",), why)
        yield from _set(config, "limits", ("evaluate_seconds",), why)
    if config.rollout.elastic:
        yield from _set(config, "rollout", ("placement",), "engines {min, max} are placed one by one, wherever there is room")
    if config.rollout.ignore_end:
        yield from _set(config, "rollout", ("stop", "stop_token_ids"), "with rollout.ignore_end nothing ends a response early")
    if config.value.model is not None:
        yield from _set(config, "value", ("initial",), "the value model starts from value.model")
    if config.cluster.address is not None:
        yield from _set(config, "cluster", _OWN_CLUSTER, "it is of a cluster that a run starts, and cluster.address joins one")
    names = ("base_text", "instructions", "preferences", "prompts", "evaluation")
    given = {f"data.{name}": getattr(config.data, name) for name in names}
    given |= {f"evaluation.prompt_sets.{name}": source for name, source in config.evaluation.prompt_sets.items()}
    for key, source in given.items():
        if source and source.split != "train" and Path(source.path).is_file():
            yield f"{key}.split: it is for hub names, and {source.path} is a file; found {source.split}. Leave it out"


def _evaluation(config: RunConfig) -> Iterator[str]:
    section = config.evaluation
    if not section.diversity_prompts:
        why = "with evaluation.diversity_prompts: 0 diversity is not measured"
        yield from _set(config, "evaluation", ("diversity_samples",), why)
    elif not section.temperature:
        why = "with evaluation.temperature: 0 all answers to a prompt are the same"
        yield from _set(config, "evaluation", ("diversity_prompts", "diversity_samples"), why)
    for where, source in judge_sources(config).items():
        if not source.url:
            yield from _of(where, source, (*_PLACED, "max_wait_ms"), "judges are asked one after another, wherever there is room")


def _of_source(where: str, source: ScoreSource) -> Iterator[str]:
    if source.function:
        yield from _of(where, source, _SERVED, f"a {where}.function runs in {where}.replicas processes and holds no model")
    elif source.url:
        keys = ("gpus", *_PLACED, *_SERVED, "arguments")
        yield from _of(where, source, keys, f"{where}.url is a service, and no process of this run is behind it")
    else:
        why = f"it is for a {where}.function or {where}.url; a model has limits.score_seconds"
        yield from _of(where, source, _CALLED, why)
        yield from _of(where, source, ("arguments",), f"it is for a {where}.function")
        yield from _ensemble(where, source)
    if not source.retries:
        yield from _of(where, source, ("retry_seconds",), f"with {where}.retries: 0 nothing is tried again")


def _ensemble(where: str, source: ScoreSource) -> Iterator[str]:
    if not source.ensemble:
        yield from _of(where, source, ("combine",), f"{where}.ensemble is empty, and one model's score is what it is")
    if source.combine != "mean_minus_deviation":
        yield from _of(where, source, ("deviation_coefficient",), f"it is for {where}.combine: mean_minus_deviation")


def _feedback(config: RunConfig) -> Iterator[str]:
    feedback = config.reward_model.feedback
    if feedback not in ("pairs", "comparisons"):
        yield from _set(config, "reward_model", ("margin",), f"reward_model.feedback: {feedback} has no margin")
    if feedback in ("rankings", "binary"):
        yield from _set(config, "reward_model", ("minimum_gap",), f"reward_model.feedback: {feedback} has no gap of ratings")


def _algorithm(config: RunConfig) -> Iterator[str]:
    """Keys of another way to take advantages, to correct for staleness or to update weights than the one that was chosen."""
    ppo, overlap = config.ppo, config.overlap
    for key in type(ppo).model_fields:
        chooser, names = readers(key)
        if chooser and getattr(ppo, chooser) not in names:
            yield from _set(config, "ppo", (key,), f"it is for ppo.{chooser}: {' or '.join(names)}")
    if not ADVANTAGES[ppo.advantages].whitens:
        yield from _set(config, "ppo", ("whiten_advantages",), f"ppo.advantages: {ppo.advantages} are never whitened")
    if not ppo.kl_coefficient:
        yield from _set(config, "ppo", ("kl_in", "kl_estimator"), "ppo.kl_coefficient: 0 is no penalty")
    if not ppo.dynamic_sampling:
        yield from _set(config, "limits", ("silent_groups",), "it is for ppo.dynamic_sampling")
    if overlap.correction not in ("truncated", "sequence_mask"):
        yield from _set(config, "overlap", ("correction_cap",), f"overlap.correction: {overlap.correction} has no cap")
    if overlap.correction not in ("token_mask", "sequence_mask") and overlap.correction_band[0] < overlap.correction_band[1]:
        yield from _set(config, "overlap", ("correction_band",), f"overlap.correction: {overlap.correction} has no band")
    if overlap.weight_update == "drain":
        yield from _set(config, "overlap", ("recompute_cache",), "with weight_update: drain no sample goes on over an update")


def noted(config: RunConfig) -> Iterator[str]:
    """A note for each key that was set and is for another device, schedule or method than this run's."""
    if not config.ppo.critic:
        why = f"not used: ppo.advantages: {config.ppo.advantages} has no value model"
        yield from _set(config, "value", tuple(type(config.value).model_fields), why)
    if policy_serves_reference(config):
        why = "not used in ppo, where with policy.lora the policy without its adapter is the reference"
        yield from _set(config, "reference", tuple(type(config.reference).model_fields), why)
    if config.rollout.gpus:
        yield from _set(config, "rollout", ("kv_cache_gb",), "not used on GPUs, where rollout.gpu_memory_utilization says it")
    else:
        yield from _set(config, "rollout", ("gpu_memory_utilization",), "not used without rollout.gpus")
    if config.overlap.max_staleness > 0:
        why = "not used above overlap.max_staleness 0, where samples are scored as they come"
        yield from _set(config, "overlap", ("score_group",), why)
    else:
        if config.ppo.dynamic_sampling:
            why = "not used with ppo.dynamic_sampling, where each prompt's responses are scored alone"
            yield from _set(config, "overlap", ("score_group",), why)
        why = "not used at overlap.max_staleness 0, where batches are cut by sample index"
        models = {key: source for key, source in reward_sources(config).items() if not outside(source)}
        for key, section in {**models, "reference": config.reference}.items():
            yield from _of(key, section, ("max_wait_ms",), why)


def _set(config: RunConfig, name: str, keys: tuple[str, ...], why: str) -> Iterator[str]:
    return _of(name, getattr(config, name), keys, why)


def _of(name: str, section: Section, keys: tuple[str, ...], why: str) -> Iterator[str]:
    for key in keys:
        value, default = getattr(section, key), type(section).model_fields[key].default
        if value != default:
            shown = [str(one).lower() if isinstance(one, bool) else "null" if one is None else one for one in (value, default)]
            yield f"{name}.{key}: {why}; found {shown[0]}. Leave it out (it is then {shown[1]})"
