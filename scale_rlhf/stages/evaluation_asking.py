"""What the models answer: one engine, the models loaded into it one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scale_rlhf.config.judge_checks import HELD_OUT
from scale_rlhf.errors import DataError
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.stages.evaluation_answers import Contestants, Question
from scale_rlhf.telemetry.measures import model_name
from scale_rlhf.telemetry.progress import StageProgress, stage_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from scale_rlhf.config.schema import RunConfig
    from scale_rlhf.rollout.answers import Answerer

PROMPTS_PER_CALL = 256
KL_PROMPTS = 256  # a KL over so many responses has a standard error well under a nat
KL_SEED = 7_919  # samples for the KL are other samples than those that are judged
SET_SEED = 32_452_843  # times the place of the set
SEVERAL_SEED = 15_485_863  # those that diversity is measured by are others again


@dataclass
class Answers:
    """of: by set and model, an answer to each question in order. for_kl: by model, its own samples at rollout.temperature,
    none of the anchor's nor of models with other tokens. several: by model, the answers to each of the first held-out prompts.
    """

    of: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    for_kl: dict[str, list[Sample]] = field(default_factory=dict)
    several: dict[str, list[list[Sample]]] = field(default_factory=dict)


def answer(
    config: RunConfig, who: Contestants, sets: dict[str, list[Question]], tokenizer: PreTrainedTokenizerBase
) -> Answers:
    """Every model's answers to every question of every set, and its samples for the KL and for diversity.

    Answers are at evaluation.temperature. The KL is of the policy that was trained, so its samples are at
    rollout.temperature: the same ones where the temperatures agree, else samples of their own.
    """
    from scale_rlhf.rollout.answers import Answerer

    plan = _Plan(config, who, sets)
    with stage_progress("evaluate: answers", plan.responses()) as progress, Answerer(config) as answerer:
        asking = _Asking(config, who, tokenizer, answerer, progress)
        found = Answers(of={name: {} for name in sets})
        for name, path in who.paths.items():
            answerer.load(path)
            for place, (key, asked) in enumerate(sets.items()):
                found.of[key][name] = asking.ask(name, asked, config.evaluation.temperature, config.run.seed + place * SET_SEED)
            if plan.has_kl(name):
                first = sets[HELD_OUT][:KL_PROMPTS]
                found.for_kl[name] = (
                    asking.ask(name, first, config.rollout.temperature, config.run.seed + KL_SEED, chat=True)
                    if plan.kl_needs_its_own(name) else found.of[HELD_OUT][name][:KL_PROMPTS]
                )
            if plan.several:
                n = config.evaluation.diversity_samples
                again = [question for question in sets[HELD_OUT][: plan.several] for _ in range(n)]
                said = asking.ask(name, again, config.evaluation.temperature, config.run.seed + SEVERAL_SEED)
                found.several[name] = [said[start : start + n] for start in range(0, len(said), n)]
    return found


class _Plan:
    """What will be asked of whom."""

    def __init__(self, config: RunConfig, who: Contestants, sets: dict[str, list[Question]]):
        section = config.evaluation
        self.config, self.who, self.sets = config, who, sets
        greedy = not section.temperature  # then all answers to a prompt are alike
        self.several = 0 if greedy else min(section.diversity_prompts, len(sets[HELD_OUT]))

    def has_kl(self, name: str) -> bool:
        return name != self.who.anchor and name not in self.who.tokenizers

    def kl_needs_its_own(self, name: str) -> bool:
        return name in self.who.plain or self.config.evaluation.temperature != self.config.rollout.temperature

    def responses(self) -> int:
        """To generate in all."""
        kl = sum(self.has_kl(name) and self.kl_needs_its_own(name) for name in self.who.paths)
        every = sum(map(len, self.sets.values())) + self.several * self.config.evaluation.diversity_samples
        return len(self.who.paths) * every + kl * min(len(self.sets[HELD_OUT]), KL_PROMPTS)


@dataclass
class _Asking:
    """Questions in, samples in the tokens of the run's models out, whatever tokens the model that answers has."""

    config: RunConfig
    who: Contestants
    tokenizer: PreTrainedTokenizerBase
    answerer: Answerer
    progress: StageProgress

    def ask(self, name: str, asked: Sequence[Question], temperature: float, seed: int, *, chat: bool = False) -> list[Sample]:
        """chat: in the chat template, also of a model that is otherwise asked in plain text."""
        prompts = [self._prompt(name, question, chat) for question in asked]
        found: list[Sample] = []
        for start in range(0, len(prompts), PROMPTS_PER_CALL):
            part = prompts[start : start + PROMPTS_PER_CALL]
            replies = self.answerer.answer(part, temperature, seed + start)
            found += [self._sample(name, start + i, asked[start + i], reply) for i, reply in enumerate(replies)]
            self.progress.advance(len(part), model_name(name))
        return found

    def _prompt(self, name: str, question: Question, chat: bool) -> list[int]:
        from scale_rlhf.data.chat import plain_ids, prompt_ids

        if name in self.who.plain and not chat:
            return plain_ids(self.tokenizer, question.row["messages"])
        if name not in self.who.tokenizers:
            return question.token_ids

        ids, limit = prompt_ids(self.who.tokenizers[name], question.row["messages"]), self.config.data.max_prompt_tokens
        if len(ids) > limit:
            raise DataError(f"{question.row.get('_at', question.text)}: the prompt has {len(ids)} tokens in "
                            f"evaluation.models.{name}, more than data.max_prompt_tokens ({limit}); raise it")
        return ids

    def _sample(self, name: str, index: int, question: Question, reply) -> Sample:
        """A reply, token ids or a Sample of the engine, as the answer to the prompt in the run's tokens, however it was asked."""
        ids = np.asarray(getattr(reply, "response_ids", reply), np.int32)
        own = self.who.tokenizers.get(name)
        ends = {(own or self.tokenizer).eos_token_id, *self.config.rollout.stop_token_ids}
        ended = bool(getattr(reply, "ended", len(ids) and int(ids[-1]) in ends))
        if own:
            text = own.decode(ids.tolist(), skip_special_tokens=True)
            said = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            ids = np.asarray([*said, *([self.tokenizer.eos_token_id] if ended else [])], np.int32)
        row = {**question.row, "prompt": question.text}
        empty = np.zeros(len(ids), np.float32)
        prompt = Prompt(index, index, np.asarray(question.token_ids, np.int32), row)
        return Sample(prompt, ids, empty, empty.astype(np.int32), ended)
