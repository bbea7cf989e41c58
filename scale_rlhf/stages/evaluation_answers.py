"""Who is evaluated, and on which prompts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from scale_rlhf.config.judge_checks import HELD_OUT
from scale_rlhf.errors import ConfigError, DataError
from scale_rlhf.evaluation.behaviour import should_of
from scale_rlhf.stages.models import starting_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from scale_rlhf.config.schema import RunConfig
    from scale_rlhf.orchestration.run_folder import RunFolder

ALIGNED = {"ppo": "policy", "dpo": "dpo", "best_of_n": "best_of_n"}  # stage: role that it starts as


@dataclass(frozen=True)
class Contestants:
    """The models, by name, in the order of the table. anchor: what alignment started from; wins and KL are against it."""

    paths: dict[str, str]
    anchor: str
    plain: frozenset[str]  # base models made from plain text here: they know of no chat, and are asked in a line of text
    # Of further models that have other tokens or another chat template than the run's: they are asked and read by their own.
    tokenizers: dict[str, PreTrainedTokenizerBase] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """A held-out prompt."""

    row: dict  # of the data file, with `messages`
    token_ids: list[int]  # chat template applied
    text: str  # the last turn of the user: what the judge and the reader see

    @property
    def should(self) -> str | None:
        """answer, refuse or admit, where the file says it."""
        return self.row.get("should")


def contestants(config: RunConfig, folder: RunFolder) -> Contestants:
    """base, sft and what came of it: those that the run made, else those that the configuration names; then evaluation.models.
    ConfigError where there is none.

    A policy that was made here is set against what it started from; one that is named as policy.model, against reference.model.
    """
    made = {name: str(folder.model(name)) for name in ("base", "sft", *ALIGNED) if (folder.model(name) / "config.json").is_file()}
    trained = next((role for stage, role in ALIGNED.items() if stage in made), None)
    base = made.get("base") or config.model.path
    named = None if "sft" in made or trained else config.policy.model
    sft = made.get("sft") or (starting_model(config, folder, trained) if trained else config.reference.model)
    aligned = {name: made[name] for name in reversed(ALIGNED) if name in made} or {"ppo": named}
    found = {name: path for name, path in {"base": base, "sft": sft, **aligned}.items() if path}
    if found.get("sft") == base:
        found.pop("sft", None)
    found |= config.evaluation.models
    if not found:
        raise ConfigError(
            f"model.path: there is no model to evaluate: {folder.path}/models has none of base, sft, {', '.join(ALIGNED)}. "
            "Run those stages first, or give model.path, policy.model or evaluation.models"
        )
    anchor = next(name for name in ("sft", "base", *ALIGNED, *config.evaluation.models) if name in found)
    return Contestants(found, anchor, frozenset({"base"} & made.keys()) if config.base.model is None else frozenset())


def with_tokenizers(config: RunConfig, who: Contestants, tokenizer: PreTrainedTokenizerBase) -> Contestants:
    """The same models, with the tokenizers of those that cannot be asked as the others are. tokenizer: of the run's models."""
    from scale_rlhf.data.chat import load_tokenizer

    own = {name: load_tokenizer(path, config.model) for name, path in config.evaluation.models.items()}
    ours = _language(tokenizer)
    return replace(who, tokenizers={name: one for name, one in own.items() if _language(one) != ours})


def prompt_sets(config: RunConfig, folder: RunFolder, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Question]]:
    """The held-out prompts and those of evaluation.prompt_sets, by the name of the set. Raises DataError as `questions`."""
    from scale_rlhf.data.read import prompts

    sets = {HELD_OUT: questions(config, folder, tokenizer)}
    for name, source in config.evaluation.prompt_sets.items():
        key = f"evaluation.prompt_sets.{name}"
        sets[name] = _questions(config, tokenizer, prompts(source, key))
    return sets


def questions(config: RunConfig, folder: RunFolder, tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    """The held-out prompts, at most evaluation.prompts of them. Raises DataError for a prompt over data.max_prompt_tokens."""
    from scale_rlhf.data.sources import sources

    rows = sources(config, folder).evaluation_prompts()
    if not rows:
        raise DataError("data.evaluation: there are no held-out prompts; give a file with some, or raise data.hold_out")
    return _questions(config, tokenizer, rows)


def _questions(config: RunConfig, tokenizer: PreTrainedTokenizerBase, rows: list[dict]) -> list[Question]:
    from scale_rlhf.data.chat import prompt_ids
    from scale_rlhf.data.limit import within_limit

    limit = config.data.max_prompt_tokens
    rows, _ = within_limit(rows, lambda messages: len(prompt_ids(tokenizer, messages)), limit, config.data.long_prompts)
    for row in rows:
        should_of(row)
    return [
        Question(row, list(prompt_ids(tokenizer, row["messages"])), row["messages"][-1]["content"])
        for row in rows[: config.evaluation.prompts]
    ]


def _language(tokenizer: PreTrainedTokenizerBase) -> tuple:
    """What a prompt's and an answer's tokens depend on."""
    return tokenizer.get_vocab(), tokenizer.chat_template, tokenizer.eos_token_id
