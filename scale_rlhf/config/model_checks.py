"""Do the models of a run fit it: head size, heads, context, chat template, end token, one vocabulary. Imports no torch."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from scale_rlhf.config.model_files import HubUnreachable, ModelFiles, model_files, pickled_weights
from scale_rlhf.config.reward_sources import judge_sources, reward_sources
from scale_rlhf.config.schema import RunConfig, ScratchSection
from scale_rlhf.config.sizing.engine import Cut, tensor_parallel_problem
from scale_rlhf.config.sizing.shapes import shipped
from scale_rlhf.config.supervised import SUPERVISED
from scale_rlhf.errors import ConfigError

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # of vLLM's CPU backend; others die at the first request
_BYTES = {"float32": 4, "bfloat16": 2}
_SAMPLED_FROM = ("model.path", "sft.model", "best_of_n.model", "dpo.model", "policy.model", "reference.model")


def check_models(config: RunConfig, stages: Sequence[str], notes: list[str]) -> Iterator[str]:
    """Yields what is wrong; appends to `notes` what could not be checked because the hub cannot be reached."""
    yield from _template(config.model.chat_template)
    files: dict[str, ModelFiles] = {}
    sizes: dict[str, ModelFiles] = {}  # of models that are out of reach and whose shape is known
    for key, path in _given(config, stages):
        try:
            files[key] = model_files(path, key)
        except ConfigError as error:
            yield str(error)
        except HubUnreachable:
            if known := _named_shape(config, path):
                sizes[key] = known
            sized = "" if known else "head size, context, "
            notes.append(f"not made: the hub cannot be reached: {sized}chat template, end token and vocabulary of {path} ({key})")
    for key, model in files.items():
        yield from _code(config, key, model)
        if model.local and (problem := pickled_weights(model.path)):
            yield f"{key}: {problem}"
        yield from _kind(config, stages, key, model)
        if not key.startswith(("reward.", "evaluation.judges.")):
            yield from _tokenizer(config, key, model)
    if {"best_of_n", "ppo", "evaluate"} & set(stages):
        yield from _engine(config, files | sizes)
        yield from _further(config, files | sizes)
        yield from _vocabularies(files, _value_reads(config, stages))
    yield from _lengths(config, stages, files | sizes)


def _named_shape(config: RunConfig, path: str) -> ModelFiles | None:
    """What model.shapes says of a model; None where it says nothing, or (which the plan complains about) nothing right."""
    try:
        shape = shipped(config.model.shapes[path])
    except (KeyError, ConfigError):
        return None
    return ModelFiles(path, shape, local=False, text_config=shape.get("text_config") or shape)


def _template(path: str | None) -> Iterator[str]:
    if not path:
        return
    try:
        Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not text, or a name that no file can have
        found = f"nothing at {path}" if isinstance(error, FileNotFoundError) else f"at {path[:200]} what cannot be read: {error}"
        yield f"model.chat_template: expected a file with a Jinja template, found {found}"


def _given(config: RunConfig, stages: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Key and path of each model that the stages start from and that is named in the configuration."""
    roles = {stage: [section] for stage, section in SUPERVISED.items()} | {
        "ppo": ["policy", "value", "reference"],
    }
    used = dict.fromkeys(role for stage in stages for role in roles.get(stage, []) if role != "value" or config.ppo.critic)
    scored = reward_sources(config) if {"best_of_n", "ppo", "evaluate"} & set(stages) else {}
    for key, section in (("model", config.model), *((role, getattr(config, role)) for role in used), *scored.items()):
        path = section.path if key == "model" else section.model
        if path:
            yield f"{key}.path" if key == "model" else f"{key}.model", path
    if "evaluate" in stages:
        yield from ((f"evaluation.models.{name}", path) for name, path in config.evaluation.models.items())
        judges = {key: source for key, source in judge_sources(config).items() if source.model}
        yield from ((f"{key}.model", source.model) for key, source in judges.items())
        scored |= judges
    for key, source in scored.items():
        yield from ((f"{key}.ensemble.{place}", path) for place, path in enumerate(source.ensemble))


def _code(config: RunConfig, key: str, model: ModelFiles) -> Iterator[str]:
    if "auto_map" in model.config and not config.model.trust_remote_code:
        yield (f"{key}: {model.path} brings Python code of its own; set model.trust_remote_code=true if you know its author, "
               "or take another")


def _kind(config: RunConfig, stages: Sequence[str], key: str, model: ModelFiles) -> Iterator[str]:
    """Can the model do what it is named for, and does every part of the run compute it alike?"""
    sampled = key in _SAMPLED_FROM or key.startswith("evaluation.models.")
    if sampled and set(stages) != {"reward"} and not model.causal:
        yield (f"{key}: {model.path} is of the kind {model.config['architectures'][0]}; expected a causal language model "
               "(…ForCausalLM), which answers token by token")
    if model.text_config.get("attn_logit_softcapping") and config.model.attention == "sdpa":
        yield (f"model.attention: {model.path} ({key}) caps its attention scores (attn_logit_softcapping), and transformers' "
               "sdpa leaves that out without a word; set model.attention=eager, or flash_attention_2 on GPUs")


def _tokenizer(config: RunConfig, key: str, model: ModelFiles) -> Iterator[str]:
    if model.tokenizer_config is None and not (Path(model.path) / "tokenizer.json").is_file():
        yield f"{key}: {model.path} has no tokenizer (no tokenizer_config.json, no tokenizer.json)"
        return
    if not model.has_chat_template and not config.model.chat_template:
        yield (f"{key}: the tokenizer of {model.path} has no chat template (chat_template.jinja, or chat_template in "
               "tokenizer_config.json); give a file with one as model.chat_template")
    if not model.end_token:
        yield (f"{key}: the tokenizer of {model.path} has no end token, so a response could never end; set eos_token in its "
               "tokenizer_config.json to the token that ends an assistant's turn")


def _engine(config: RunConfig, files: dict[str, ModelFiles]) -> Iterator[str]:
    """What vLLM asks of the model that it generates with."""
    key, model = _generator(files)
    scratch, ranks = config.model.scratch, config.rollout.tensor_parallel
    size, heads = (model.head_size, model.heads) if model else (scratch.head_dim, scratch.heads)
    layers, kv = (model.layers, model.key_value_heads) if model else (scratch.layers, scratch.key_value_heads)
    if key is None and config.model.path is not None:
        return  # not reached: a note says so
    if not config.rollout.gpus and size not in CPU_HEAD_SIZES:
        where = f"{key}: {model.path}" if model else "model.scratch.head_dim"
        near = min(CPU_HEAD_SIZES, key=lambda known: abs(known - (size or 0)))
        yield (f"{where}: head size {size}, and vLLM's CPU backend has {', '.join(map(str, CPU_HEAD_SIZES))} only; "
               + (f"the nearest is {near}" if not model else "take another model, or give rollout.gpus"))
    wide, words = _wide(model, scratch)
    if problem := tensor_parallel_problem(Cut(heads, kv, wide, words), ranks):
        yield f"rollout.tensor_parallel: {problem}"
    if model and config.rollout.verify_weights and model.text_config.get("model_type") == "gpt2":
        yield (f"rollout.verify_weights: {model.path} ({key}) keeps queries, keys and values in one matrix, turned round, of "
               "which the engine cannot be asked tensor by tensor; leave it out (log-probabilities are compared all the same)")
    tokens = config.data.max_prompt_tokens + config.rollout.max_response_tokens
    if size and layers and kv and not config.rollout.gpus:
        need = 2 * layers * kv * size * _BYTES[config.rollout.dtype] * tokens / 1e9
        if need > config.rollout.kv_cache_gb:
            yield ("rollout.kv_cache_gb: one sequence of data.max_prompt_tokens + rollout.max_response_tokens = "
                   f"{tokens} tokens takes {need:.2g} GB; found {config.rollout.kv_cache_gb:g}")


def _further(config: RunConfig, files: dict[str, ModelFiles]) -> Iterator[str]:
    """The same of the further models that the evaluation loads into an engine."""
    tokens = config.data.max_prompt_tokens + config.rollout.max_response_tokens
    for key, model in files.items():
        if not key.startswith("evaluation.models."):
            continue
        if not config.rollout.gpus and model.head_size and model.head_size not in CPU_HEAD_SIZES:
            yield (f"{key}: {model.path}: head size {model.head_size}, and vLLM's CPU backend has "
                   f"{', '.join(map(str, CPU_HEAD_SIZES))} only; take another model, or give rollout.gpus")
        if model.context and tokens > model.context:
            yield (f"{key}: {model.path} has a context of {model.context} tokens, fewer than data.max_prompt_tokens + "
                   f"rollout.max_response_tokens ({tokens}); lower one of them, or take another model")


def _generator(files: dict[str, ModelFiles]) -> tuple[str | None, ModelFiles | None]:
    key = next((key for key in ("policy.model", "sft.model", "model.path") if key in files), None)
    return key, files.get(key)


def _wide(model: ModelFiles | None, scratch: ScratchSection) -> tuple[int | None, int | None]:
    """Width of the feed-forward layers, tokens of the vocabulary."""
    if model is None:
        return scratch.intermediate_size, scratch.vocabulary
    return model.text_config.get("intermediate_size"), model.text_config.get("vocab_size")


def _value_reads(config: RunConfig, stages: Sequence[str]) -> str:
    """Key of the model that the value model starts from; it need not be named."""
    from_reward = config.value.initial == "reward" and not config.value.model
    return "reward.model" if "ppo" in stages and config.ppo.critic and from_reward else "value.model"


def _vocabularies(files: dict[str, ModelFiles], value: str) -> Iterator[str]:
    """Log-probabilities of two models are compared token by token, and values are of the policy's tokens: each token must have
    the same number in all of them.
    """
    key, policy = _generator(files)
    if policy is None:
        return
    for other_key in ("reference.model", value):
        other = files.get(other_key)
        if other is None or other.path == policy.path:
            continue
        ours, theirs = policy.vocabulary(), other.vocabulary()
        if ours is not None and theirs is not None and ours != theirs:
            token = next(iter(sorted(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))))
            cure = "Set value.initial=policy" if other_key == "reward.model" else "Take models of one family"
            yield (f"{other_key}: {other.path} and {policy.path} ({key}) have different vocabularies: {len(theirs)} and "
                   f"{len(ours)} tokens; {token!r} is {theirs.get(token, 'absent')} and {ours.get(token, 'absent')}. {cure}")


def _lengths(config: RunConfig, stages: Sequence[str], files: dict[str, ModelFiles]) -> Iterator[str]:
    key, model = _generator(files)
    if model is None and config.model.path is not None:
        return
    context = model.context if model else config.model.scratch.context
    name = f"the context of {model.path}" if model else "model.scratch.context"
    if context is None:
        return
    prompt, response = config.data.max_prompt_tokens, config.rollout.max_response_tokens
    if {"best_of_n", "ppo", "evaluate"} & set(stages) and prompt + response > context:
        yield (f"data.max_prompt_tokens + rollout.max_response_tokens: {prompt} + {response} = {prompt + response} tokens, "
               f"more than {name} ({context}); lower one of them")
    for stage, section in SUPERVISED.items():
        longest = getattr(config, section).max_tokens
        if stage in stages and longest > context:
            yield f"{section}.max_tokens: {longest}, more than {name} ({context}); set {section}.max_tokens={context} or less"
