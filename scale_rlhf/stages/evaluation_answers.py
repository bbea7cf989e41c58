"""Who is evaluated, on which prompts, and what they answer: one engine, the models loaded into it one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scale_rlhf.errors import ConfigError
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.stages.models import starting_model
from scale_rlhf.telemetry.measures import model_name
from scale_rlhf.telemetry.progress import stage_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from scale_rlhf.config.schema import RunConfig
    from scale_rlhf.orchestration.run_folder import RunFolder

ALIGNED = {"ppo": "policy", "dpo": "dpo", "best_of_n": "best_of_n"}  # stage: role that it starts as
PROMPTS_PER_CALL = 256
KL_PROMPTS = 256  # a KL over so many responses has a standard error well under a nat
KL_SEED = 7_919  # samples for the KL are other samples than those that are judged


@dataclass(frozen=True)
class Contestants:
    """The models, by name, in the order of the table. anchor: what alignment started from; wins and KL are against it."""

    paths: dict[str, str]
    anchor: str
    plain: frozenset[str]  # base models made from plain text here: they know of no chat, and are asked in a line of text


@dataclass(frozen=True)
class Question:
    """A held-out prompt."""

    row: dict  # of the data file, with `messages`
    token_ids: list[int]  # chat template applied
    text: str  # the last turn of the user: what the judge and the reader see


def contestants(config: RunConfig, folder: RunFolder) -> Contestants:
    """base, sft and what came of it: those that the run made, else those that the configuration names. ConfigError where
    there is none.

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
    if not found:
        raise ConfigError(
            f"model.path: there is no model to evaluate: {folder.path}/models has none of base, sft, {', '.join(ALIGNED)}. "
            "Run those stages first, or give model.path or policy.model"
        )
    anchor = next(name for name in ("sft", "base", *ALIGNED) if name in found)
    return Contestants(found, anchor, frozenset({"base"} & made.keys()) if config.base.model is None else frozenset())


def questions(config: RunConfig, folder: RunFolder, tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    """The held-out prompts, at most evaluation.prompts of them. Raises DataError for a prompt over data.max_prompt_tokens."""
    from scale_rlhf.data.chat import prompt_ids
    from scale_rlhf.data.limit import within_limit
    from scale_rlhf.data.sources import sources
    from scale_rlhf.errors import DataError

    rows = sources(config, folder).evaluation_prompts()
    limit = config.data.max_prompt_tokens
    rows, _ = within_limit(rows, lambda messages: len(prompt_ids(tokenizer, messages)), limit, config.data.long_prompts)
    if not rows:
        raise DataError("data.evaluation: there are no held-out prompts; give a file with some, or raise data.hold_out")
    return [
        Question(row, list(prompt_ids(tokenizer, row["messages"])), row["messages"][-1]["content"])
        for row in rows[: config.evaluation.prompts]
    ]


def answer(
    config: RunConfig, who: Contestants, asked: Sequence[Question], tokenizer: PreTrainedTokenizerBase
) -> tuple[dict[str, list[Sample]], dict[str, list[Sample]]]:
    """Every model's answers to every question, and its samples for the KL: two {model: [Sample]}.

    Answers are at evaluation.temperature. The KL is of the policy that was trained, so its samples are at
    rollout.temperature: the same ones where the temperatures agree, else samples of their own.
    """
    from scale_rlhf.data.chat import plain_ids
    from scale_rlhf.rollout.answers import Answerer

    drawn = config.rollout.temperature
    answers: dict[str, list[Sample]] = {}
    for_kl: dict[str, list[Sample]] = {}
    ends = {tokenizer.eos_token_id, *config.rollout.stop_token_ids}

    def ask(name: str, prompts: Sequence[list[int]], temperature: float, seed: int) -> list[Sample]:
        found: list[Sample] = []
        for start in range(0, len(prompts), PROMPTS_PER_CALL):
            part = prompts[start : start + PROMPTS_PER_CALL]
            replies = answerer.answer(part, temperature, seed + start)
            found += [_sample(start + i, asked[start + i], reply, ends) for i, reply in enumerate(replies)]
            progress.advance(len(part), model_name(name))
        return found

    chat = [question.token_ids for question in asked]
    with stage_progress("evaluate: answers", _calls(config, who, len(asked))) as progress, Answerer(config) as answerer:
        for name, path in who.paths.items():
            answerer.load(path)
            prompts = [plain_ids(tokenizer, question.row["messages"]) for question in asked] if name in who.plain else chat
            answers[name] = ask(name, prompts, config.evaluation.temperature, config.run.seed)
            if name != who.anchor:
                own = _kl_needs_its_own(config, who, name)
                for_kl[name] = (
                    ask(name, chat[:KL_PROMPTS], drawn, config.run.seed + KL_SEED) if own else answers[name][:KL_PROMPTS]
                )
    return answers, for_kl


def _kl_needs_its_own(config: RunConfig, who: Contestants, name: str) -> bool:
    return name in who.plain or config.evaluation.temperature != config.rollout.temperature


def _calls(config: RunConfig, who: Contestants, count: int) -> int:
    """Responses to generate in all."""
    extra = sum(name != who.anchor and _kl_needs_its_own(config, who, name) for name in who.paths)
    return len(who.paths) * count + extra * min(count, KL_PROMPTS)


def _sample(index: int, question: Question, reply, ends: set[int]) -> Sample:
    """A reply, token ids or a Sample of the engine, as the answer to the prompt with its chat template, whoever was asked how."""
    ids = np.asarray(getattr(reply, "response_ids", reply), np.int32)
    row = {**question.row, "prompt": question.text}
    empty = np.zeros(len(ids), np.float32)
    ended = bool(getattr(reply, "ended", len(ids) and int(ids[-1]) in ends))
    return Sample(Prompt(index, index, np.asarray(question.token_ids, np.int32), row), ids, empty, empty.astype(np.int32), ended)
