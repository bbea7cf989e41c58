"""Which model a stage starts from, and whether two models speak of the same tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scale_rlhf.config.reward_sources import outside, reward_sources
from scale_rlhf.errors import ConfigError

if TYPE_CHECKING:
    from scale_rlhf.config.schema import RunConfig
    from scale_rlhf.orchestration.run_folder import RunFolder

ROLES = ("sft", "reward_model", "best_of_n", "dpo", "policy", "reference", "value", "reward")


def starting_model(config: RunConfig, folder: RunFolder, role: str) -> str:
    """Folder or hub name of the model that `role` starts from.

    role: one of ROLES. The config's own key for that role; else what the latest earlier stage of this run made; else
    model.path. Raises ConfigError that says which key to set where there is none.
    """
    if role not in ROLES:
        raise ValueError(f"role {role!r}; expected one of {', '.join(ROLES)}")
    explicit = getattr(config, role).model
    if explicit:
        return explicit
    if role == "reference":  # the policy as it was before the first update
        return starting_model(config, folder, "policy")
    if role == "value":
        return _value_start(config, folder)
    if role == "reward":
        return _made(folder, "reward") or _fail(
            "reward.model", "the stage `reward` of this run has made none",
            "a sequence-classification model, a reward.function or a reward.url, or run the stage first",
        )
    earlier = ["base"] if role == "sft" else ["sft", "base"]
    for stage in earlier:
        if made := _made(folder, stage):
            return made
    return config.model.path or _fail(
        f"{role}.model", f"no earlier stage ({', '.join(earlier)}) of this run has made one and model.path is null",
        "a model's folder or hub name, or run the stages before it first",
    )


def reward_start(config: RunConfig, folder: RunFolder) -> str | None:
    """The model of the sources that name none of their own; None where there is no such source."""
    models = [source for source in reward_sources(config).values() if not outside(source)]
    return starting_model(config, folder, "reward") if any(source.model is None for source in models) else None


def check_same_vocabulary(first: str, second: str, *, trust_remote_code: bool = False) -> None:
    """Raises ConfigError unless both models' tokenizers give every token the same number and neither model lacks a row for one.

    first, second: folders or hub names. The KL between two models is over tokens: it means nothing otherwise.
    """
    if first == second:
        return
    from transformers import AutoConfig, AutoTokenizer

    from scale_rlhf.models.loading import offline_if_local

    vocabularies = []
    for path in (first, second):
        with offline_if_local(path):
            try:
                vocabulary = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code).get_vocab()
                size = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code).get_text_config().vocab_size
            except (OSError, ValueError) as error:
                raise ConfigError(f"{path}: no tokenizer and model configuration could be read there: {error}") from error
        if max(vocabulary.values()) >= size:
            raise ConfigError(f"{path}: the tokenizer has token {max(vocabulary.values())}, "
                              f"the model only {size} rows of embeddings")
        vocabularies.append(vocabulary)
    _compare(first, second, *vocabularies)


def _compare(first: str, second: str, one: dict[str, int], other: dict[str, int]) -> None:
    different = sorted((token for token in one.keys() | other.keys() if one.get(token) != other.get(token)), key=str)
    if different:
        token = different[0]
        raise ConfigError(
            f"{first} and {second} have different vocabularies: {len(one)} and {len(other)} tokens, "
            f"{len(different)} of them not alike, such as {token!r} "
            f"({one.get(token, 'absent')} and {other.get(token, 'absent')}). "
            "Policy and reference must be of one model family; set reference.model or policy.model"
        )


def _value_start(config: RunConfig, folder: RunFolder) -> str:
    if config.value.initial == "policy":
        return starting_model(config, folder, "policy")
    if config.reward.mix or outside(config.reward):
        _fail("value.model", "value.initial is `reward`, and the reward is a function, a service or a mixture, not a model",
              "a model, or set value.initial=policy")
    return starting_model(config, folder, "reward")


def _made(folder: RunFolder, stage: str) -> str | None:
    model = folder.model(stage)
    return str(model) if (model / "config.json").is_file() else None


def _fail(key: str, found: str, do: str) -> str:
    raise ConfigError(f"{key}: there is no model to start from: {found}. Give {do}")
