"""What a type cannot say: keys that contradict each other, models and files that are not as the run needs them.

All of it is found before anything starts, and told in one message. Imports no torch.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from importlib.machinery import PathFinder
from importlib.util import find_spec

from scale_rlhf.config.judge_checks import check_judges
from scale_rlhf.config.methods import ADVANTAGES
from scale_rlhf.config.model_checks import check_models
from scale_rlhf.config.one_base import policy_serves_reference
from scale_rlhf.config.places import find_file, is_local
from scale_rlhf.config.resources import local_cluster, machine_gpus, shortages
from scale_rlhf.config.reward_sources import judge_functions, outside, reward_functions, reward_sources
from scale_rlhf.config.schema import STAGES, DataSource, PPOSection, RunConfig
from scale_rlhf.config.sizing.plan import plan
from scale_rlhf.config.sizing.table import mistakes
from scale_rlhf.config.supervised import SUPERVISED
from scale_rlhf.config.unused import noted, refused
from scale_rlhf.errors import ConfigError, DataError

TRAINED = (*SUPERVISED.values(), "policy", "value")
_SMALLEST_STORE_GB = 0.08  # Ray refuses less than 75 MB


def stages_of(config: RunConfig, stages: Sequence[str] | None = None) -> list[str]:
    """The stages that a run has: those given, or run.stages, without `base` where model.path names a base model."""
    stages = list(stages or config.run.stages)
    return [stage for stage in stages if stage != "base" or config.model.path is None]


def check(
    config: RunConfig, stages: Sequence[str] | None = None, *, earlier: Sequence[str] = (), starts: bool = True,
) -> list[str]:
    """Raises ConfigError with a line for everything that is wrong; returns notes on what could not be checked.

    stages: those that will run, by default run.stages. earlier: stages of the same run that are done. starts: the run is
    to start here and now; False (validation on a login node) makes a machine that is too small a note.
    """
    stages = stages_of(config, stages)
    if unknown := [stage for stage in stages if stage not in STAGES]:  # of a folder that somebody else wrote
        raise ConfigError(f"run.stages: expected some of {', '.join(STAGES)}; found {', '.join(map(repr, unknown))}")
    notes: list[str] = list(noted(config))
    mistakes = [
        *_stages(config, stages, earlier), *_training(config), *_feedback(config), *_reward(config, stages, earlier),
        *_reinforcement(config, stages), *_preferences(config, stages), *_overlap(config),
        *_scratch(config), *_data(config, stages), *_import_paths(config), *_attention(config, stages), *_cluster(config, starts),
        *_telemetry(config, starts), *check_judges(config), *refused(config), *check_models(config, stages, notes),
        *_sizes(config, stages, notes),
    ]
    small = list(_resources(config, stages))
    if starts:
        mistakes += small
    else:
        notes += [f"cannot run here: {text}" for text in small]
    if mistakes:
        raise ConfigError("\n".join(dict.fromkeys(mistakes)))
    return notes


def _stages(config: RunConfig, stages: list[str], earlier: Sequence[str]) -> Iterator[str]:
    in_order = [name for name in STAGES if name in stages]
    if stages != in_order:
        yield f"run.stages: expected stages once each in the order {', '.join(STAGES)}; found {', '.join(stages)}"
    first = next((stage for stage in in_order if stage != "evaluate"), None)
    section = {"ppo": "policy"}.get(first, SUPERVISED.get(first))
    key = f"{section}.model" if section not in (None, "base") else None
    if key and not earlier and config.model.path is None and getattr(config, key.split(".")[0]).model is None:
        yield (f"{key}: there is no model to start from: model.path is null and stage base is not among the stages "
               f"({', '.join(stages)}). Give {key}=FOLDER, such as runs/NAME/models/base, or model.path")


def _training(config: RunConfig) -> Iterator[str]:
    for name in TRAINED:
        section = getattr(config, name)
        if section.autocast and section.dtype != "bfloat16":
            yield f"{name}.autocast: needs {name}.dtype: bfloat16; found {section.dtype}"
        if section.offload_optimizer and section.zero_stage < 1:
            yield f"{name}.offload_optimizer: needs {name}.zero_stage 1, 2 or 3; found {section.zero_stage}"
        if section.offload_parameters and section.zero_stage != 3:
            yield f"{name}.offload_parameters: needs {name}.zero_stage 3; found {section.zero_stage}"
        if not all(0 <= beta < 1 for beta in section.betas):
            yield f"{name}.betas: expected two numbers of at least 0 and less than 1; found {list(section.betas)}"


def _feedback(config: RunConfig) -> Iterator[str]:
    section = config.reward_model
    if twice := sorted({aspect for aspect in section.aspects if section.aspects.count(aspect) > 1}):
        yield f"reward_model.aspects: expected each name once; found {', '.join(twice)} more than once"
    if section.aspects and section.feedback in ("pairs", "binary"):
        yield (f"reward_model.aspects: feedback: {section.feedback} has no aspects; set reward_model.feedback to "
               "comparisons, ratings or rankings, or leave reward_model.aspects out")
    for where, source in reward_sources(config).items():
        if source.aspects and not any(source.aspects.values()):
            yield f"{where}.aspects: every weight is 0, and so every score would be; give one that is not"


def _reward(config: RunConfig, stages: list[str], earlier: Sequence[str]) -> Iterator[str]:
    sources, scoring = reward_sources(config), {"best_of_n", "ppo"} & set(stages)
    for where, source in sources.items():
        given = [key for key in ("model", "function", "url") if getattr(source, key)]
        if len(given) > 1:
            found = " and ".join(f"{where}.{key}" for key in given)
            yield f"{where}: expected exactly one of model, function and url; found {found}"
        if source.url and not re.match(r"https?://[^/\s]+", source.url):
            yield f"{where}.url: expected an address that begins with http:// or https://; found {source.url}"
        if scoring and not given and "reward" not in (*stages, *earlier):
            yield (f"{where}: there is no reward: stage reward is not among the stages, and {where}.model, {where}.function and "
                   f"{where}.url are null. Give one of them, such as {where}.model=runs/NAME/models/reward")
    if not scoring:
        return
    made = config.reward_model.aspects if "reward" in (*stages, *earlier) else []
    for where, source in sources.items():
        own = [] if source.model or outside(source) else made  # of the model that this run makes
        if own and (unknown := [aspect for aspect in source.aspects if aspect not in own]):
            near = get_close_matches(unknown[0], own, n=1)
            yield (f"{where}.aspects: expected some of reward_model.aspects ({', '.join(own)}); found {unknown[0]}"
                   f"{f'; did you mean {near[0]}?' if near else ''}")
    starts = "ppo" in stages and config.ppo.critic and config.value.initial == "reward" and config.value.model is None
    if len(made) > 1 and starts and not config.reward.mix and not config.reward.model:
        yield (f"value.initial: the value model has one number a token, and the reward model that this run makes has {len(made)} "
               "(reward_model.aspects); set value.initial=policy, or value.model")
    if starts and (config.reward.mix or outside(config.reward)):
        what = "several sources are mixed" if config.reward.mix else "the reward is a function or a service"
        yield (f"value.initial: the value model cannot start from the reward model where {what}; "
               "set value.initial=policy, or value.model")
    yield from _shaping(config)


def _shaping(config: RunConfig) -> Iterator[str]:
    for where, source in reward_sources(config).items():
        if source.clip and not source.clip[0] < source.clip[1]:
            yield f"{where}.clip: expected two numbers, the smaller first; found {list(source.clip)}"
        data = config.data
        if source.normalise and not (data.practice or data.instructions or data.mixture or data.preferences):
            yield f"{where}.normalise: the reference answers are those of data.instructions, and there are none; give a file"
    overlong, limit = config.reward.overlong, config.rollout.max_response_tokens
    if overlong and overlong.buffer_tokens > limit:
        yield (f"reward.overlong.buffer_tokens: at most rollout.max_response_tokens ({limit}); found {overlong.buffer_tokens}")


def _reinforcement(config: RunConfig, stages: list[str]) -> Iterator[str]:
    rollout, ppo = config.rollout, config.ppo
    if ppo.kl_target is not None and ppo.kl_coefficient == 0:
        yield "ppo.kl_coefficient: 0 stays 0 under an adaptive coefficient (ppo.kl_target is set); start from a number above 0"
    yield from _method(ppo)
    if "ppo" not in stages:
        return
    if config.policy.lora and rollout.weight_transfer in ("nccl", "ipc"):
        yield (f"rollout.weight_transfer: with policy.lora the adapter alone travels, and {rollout.weight_transfer} takes whole "
               "weights; set auto, shared_memory or network")
    if config.policy.lora and rollout.verify_weights:
        yield ("rollout.verify_weights: it compares whole weights, and with policy.lora the adapter alone travels; leave it out. "
               "Checksums and the probe (limits.probe_every) are there without it")
    why = "samples would come from another distribution than the one whose log-probabilities the learner computes"
    if ADVANTAGES[ppo.advantages].greedy and ppo.kl_coefficient and ppo.kl_in == "reward" and rollout.temperature != 1:
        yield (f"rollout.temperature: must be 1 with ppo.advantages: {ppo.advantages} and the KL penalty in the reward; found "
               f"{rollout.temperature:g}. Engines give a greedy response's log-probabilities at temperature 1 alone, and its KL "
               "would be another than the samples'; or set ppo.kl_in=loss, or ppo.kl_coefficient=0")
    if rollout.top_p != 1:
        yield f"rollout.top_p: must be 1 in RL; found {rollout.top_p:g}: {why}. Use rollout.temperature to sharpen"
    if rollout.top_k != 0:
        yield f"rollout.top_k: must be 0 (off) in RL; found {rollout.top_k}: {why}. Use rollout.temperature to sharpen"


def _method(ppo: PPOSection) -> Iterator[str]:
    """Advantages, loss and KL that would say nothing beside each other."""
    method = ADVANTAGES[ppo.advantages]
    if method.compares and ppo.responses_per_prompt < 2:
        yield (f"ppo.responses_per_prompt: ppo.advantages: {ppo.advantages} compares the responses to one prompt and needs at "
               f"least 2; found {ppo.responses_per_prompt}")
    if ppo.dynamic_sampling and not method.compares:
        those = ", ".join(name for name, one in ADVANTAGES.items() if one.compares)
        yield (f"ppo.dynamic_sampling: a prompt whose responses score alike says nothing only where they are compared with each "
               f"other: with ppo.advantages {those}; found {ppo.advantages}")
    if ppo.kl_in == "loss" and ppo.kl_estimator == "k1" and ppo.kl_coefficient:
        yield ("ppo.kl_estimator: k1 in the loss has no gradient but noise; with ppo.kl_in: loss take k2 (the reverse KL's "
               "gradient) or k3 (GRPO's)")
    if method.critic and ppo.value_pretraining >= ppo.steps:
        yield (f"ppo.value_pretraining: of ppo.steps ({ppo.steps}) at least one must train the policy; found "
               f"{ppo.value_pretraining}")


def _preferences(config: RunConfig, stages: list[str]) -> Iterator[str]:
    dpo = config.dpo
    if "dpo" in stages and dpo.loss == "kto" and (dpo.microbatch < 2 or dpo.batch_size <= dpo.workers):
        yield (f"dpo.microbatch: TRL's KTO needs at least 2 samples in a forward; found dpo.microbatch {dpo.microbatch}, and "
               f"{dpo.batch_size} samples a step (dpo.batch_size) over {dpo.workers} workers")
    if "best_of_n" in stages and config.rollout.ignore_end:
        yield "rollout.ignore_end: best_of_n learns answers that have ended by themselves, and with it none does; leave it out"


def _overlap(config: RunConfig) -> Iterator[str]:
    """What the loss is anchored to must fit how old samples may be (Hilton et al. 2022; AReaL, 2025)."""
    overlap = config.overlap
    low, high = overlap.correction_band
    if not low < high:
        yield f"overlap.correction_band: expected two numbers, the smaller first; found {[low, high]}"
    if overlap.anchor == "behaviour" and overlap.correction != "none":
        yield (f"overlap.correction: {overlap.correction} needs overlap.anchor: proximal. With anchor: behaviour the ratio is "
               "against the engine's own log-probabilities, which is itself the correction")
    stale = overlap.max_staleness > 0 or not overlap.recompute_cache
    if overlap.anchor == "proximal" and overlap.correction == "none" and stale:
        why = f"max_staleness: {overlap.max_staleness}" if overlap.max_staleness else "recompute_cache: false"
        yield (f"overlap.correction: anchor: proximal with {why} needs a weight. The clip is then around the recomputed policy, "
               "and nothing says that the samples came from another: the loss would be that of data the policy never sampled. "
               "Set overlap.correction to truncated, token_mask or sequence_mask, or overlap.anchor: behaviour")
    if config.rollout.sleep and not config.rollout.gpus:
        yield "rollout.sleep: engines give up the memory of a GPU, and rollout.gpus is 0; set rollout.gpus, or leave it out"
    if config.rollout.sleep and overlap.max_staleness:
        yield (f"rollout.sleep: engines that sleep during the update cannot decode for the next batch; found max_staleness: "
               f"{overlap.max_staleness}, expected 0")


def _scratch(config: RunConfig) -> Iterator[str]:
    scratch = config.model.scratch
    if config.model.path is None and scratch.heads % scratch.key_value_heads:
        yield (f"model.scratch.key_value_heads: must divide model.scratch.heads ({scratch.heads}); "
               f"found {scratch.key_value_heads}")


def _data(config: RunConfig, stages: list[str]) -> Iterator[str]:
    data = config.data
    given: dict[str, DataSource] = {name: source for name in ("base_text", "instructions", "preferences", "prompts", "evaluation")
                                    if (source := getattr(data, name))}
    given |= {f"mixture.{place}": source for place, source in enumerate(data.mixture)}
    if data.mixture and data.instructions:
        yield "data.mixture: it stands instead of data.instructions; give one of them"
    for name, source in given.items():
        if is_local(source.path):
            try:
                find_file(source.path, f"data.{name}")
            except DataError as error:
                yield str(error)
    if data.practice:
        return
    asked = ("prompts", "preferences", "instructions", "mixture.0")
    needs = {
        "base": ("base_text", "instructions", "preferences"), "sft": ("instructions", "mixture.0", "preferences"),
        "reward": ("preferences",), "best_of_n": asked, "dpo": ("preferences",), "ppo": asked,
        "evaluate": ("evaluation", *asked),
    }
    for stage in stages:
        if not any(name in given for name in needs[stage]):
            yield (f"data.{needs[stage][0]}: stage {stage} needs it; give a file or hub name"
                   f"{' (or data.preferences, to derive it from)' if len(needs[stage]) > 1 else ''}, "
                   "or data.practice={} for the practice world")
    during = "ppo" in stages and config.evaluation.every is not None
    if (during or "evaluate" in stages) and not data.evaluation and not data.hold_out:
        yield "data.hold_out: 0 leaves nothing to evaluate on; set it above 0, or give data.evaluation"


def _import_paths(config: RunConfig) -> Iterator[str]:
    for key, value in (reward_functions(config) | judge_functions(config)).items():
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", value):
            yield f"{key}: expected an import path package.module:name; found {value}"
        elif not _top_module(value.split(":")[0].split(".")[0]):
            yield (f"{key}: there is no Python module {value.split(':')[0]}; it must lie in the current folder, on PYTHONPATH, "
                   "or be installed")


def _top_module(name: str) -> bool:
    return name in sys.builtin_module_names or PathFinder.find_spec(name, [*sys.path, os.getcwd()]) is not None


def _attention(config: RunConfig, stages: list[str]) -> Iterator[str]:
    if config.model.attention != "flash_attention_2":
        return
    users = {stage: [section] for stage, section in SUPERVISED.items()} | {"ppo": ["policy", "value", "reference"]}
    for name in (name for stage in stages for name in users.get(stage, [])):
        if name == "reference" and policy_serves_reference(config):
            continue
        section = getattr(config, name)
        if not section.gpus:
            yield (f"model.attention: flash_attention_2 needs a GPU, and {name}.gpus is 0; set model.attention=sdpa, "
                   f"or {name}.gpus")
        elif section.dtype != "bfloat16":
            yield f"model.attention: flash_attention_2 computes in bfloat16, and {name}.dtype is {section.dtype}"


def _cluster(config: RunConfig, starts: bool) -> Iterator[str]:
    cluster = config.cluster
    if cluster.object_store_gb < _SMALLEST_STORE_GB:
        yield f"cluster.object_store_gb: expected at least {_SMALLEST_STORE_GB:g}; found {cluster.object_store_gb:g}"
    if cluster.nodes > 1 and cluster.address is None:
        yield (f"cluster.nodes: a cluster that a run starts is this machine alone; found {cluster.nodes}. Give the address of "
               "one with more nodes as cluster.address (auto: the one that this machine is part of)")
    if starts and cluster.address is None and cluster.gpus and cluster.gpus > machine_gpus():
        yield f"cluster.gpus: this machine has {machine_gpus()} GPUs; found {cluster.gpus}"


def _sizes(config: RunConfig, stages: Sequence[str], notes: list[str]) -> Iterator[str]:
    """Do the roles fit the GPUs that are planned for."""
    try:
        found = plan(config, stages)
    except ConfigError as error:
        yield str(error)
        return
    notes += found.models.unknown
    yield from mistakes(config, found)
def _telemetry(config: RunConfig, starts: bool) -> Iterator[str]:
    for name in ("wandb", "mlflow"):
        if starts and getattr(config.telemetry, name) and find_spec(name) is None:
            yield (f"telemetry.{name}: the Python package {name} is not installed; pip install {name}, or leave telemetry.{name} "
                   "out")


def _resources(config: RunConfig, stages: Iterable[str]) -> Iterator[str]:
    if config.cluster.address is None:  # what a cluster has is known when it is joined
        yield from shortages(config, stages, *local_cluster(config), "this machine's cluster")
