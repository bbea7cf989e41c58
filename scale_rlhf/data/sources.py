"""Which files a run reads, and which of their rows are held out: no prompt is both trained on and judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scale_rlhf.config.schema import DataSource, RunConfig, WeightedSource
from scale_rlhf.config.supervised import RewardModelSection
from scale_rlhf.data import feedback, judgements, mixing, read
from scale_rlhf.errors import ConfigError

if TYPE_CHECKING:
    import datasets

    from scale_rlhf.orchestration.run_folder import RunFolder

_PRACTICE_FILES = {
    "base_text": "base.jsonl",
    "instructions": "instructions.jsonl",
    "preferences": "ratings.jsonl",
    "prompts": "prompts.jsonl",
    "evaluation": "evaluation.jsonl",
}


@dataclass(frozen=True)
class ResolvedSources:
    """The sources of a run after defaults. None: neither given nor to be derived; the stage that needs it says so.

    The methods read them and keep apart what is held out: a prompt is held out by a hash of its text and the run's
    seed, so that the same prompt falls on the same side in every file.
    """

    base_text: DataSource | None
    instructions: DataSource | None
    preferences: DataSource | None
    prompts: DataSource | None
    evaluation: DataSource | None  # None: the share `hold_out` of prompts
    hold_out: float
    seed: int
    minimum_gap: float
    mixture: tuple[WeightedSource, ...] = ()  # instead of instructions

    def training_text(self) -> datasets.Dataset:
        """Dataset[text], without held-out dialogues where it is derived from the preferences, or prompts from it."""
        source = self.need("base_text")
        rows = read.base_text(source)
        if source not in (self.preferences, self.prompts):
            return rows
        return self._selected(rows, read.instructions(source), lambda row: row["messages"][:-1])[0]

    def training_instructions(self) -> datasets.Dataset:
        """Dataset[messages]: of data.mixture by weight, or of data.instructions; without held-out prompts where they are derived
        from the preferences, or prompts from them.
        """
        if self.mixture:
            parts = [read.instructions(source, f"data.mixture.{place}") for place, source in enumerate(self.mixture)]
            if self.prompts is None:
                parts = [self._selected(part, part, lambda row: row["messages"][:-1])[0] for part in parts]
            weighted = [(part, source.weight) for part, source in zip(parts, self.mixture, strict=True) if len(part)]
            return mixing.mixed(*zip(*weighted, strict=True), self.seed) if weighted else parts[0]
        rows = read.instructions(self.need("instructions"))
        if self.instructions not in (self.preferences, self.prompts):
            return rows
        return self._selected(rows, rows, lambda row: row["messages"][:-1])[0]

    def reference_answers(self) -> list[dict]:
        """Rows {"messages", which end with the answer, and the file's other columns} that stages may train on."""
        given = self.mixture or (self.need("instructions"),)
        rows = [row for source in given for row in read.answered(source)]
        out = held_out([row["messages"][:-1] for row in rows], self.hold_out, self.seed)
        return [row for row, held in zip(rows, out, strict=True) if not held]

    def preference_split(self) -> tuple[datasets.Dataset, datasets.Dataset]:
        """Preference pairs to train on, and held-out ones: Dataset[messages, chosen, rejected, margin] each."""
        rows = read.preferences(self.need("preferences"), self.minimum_gap)
        return self._selected(rows, rows, lambda row: row["messages"])

    def feedback_split(self, section: RewardModelSection) -> tuple[datasets.Dataset, datasets.Dataset]:
        """What raters said, but for pairs, to train on and held out: Dataset[messages, responses, targets] (data/feedback.py)."""
        rows = feedback.judgements(self.need("preferences"), section.feedback, section.aspects)
        return self._selected(rows, rows, lambda row: row["messages"])

    def judgement_split(self) -> tuple[datasets.Dataset, datasets.Dataset]:
        """Good and bad answers to train on, and held-out ones: Dataset[messages, response, good] each."""
        rows = judgements.judgements(self.need("preferences"), self.minimum_gap)
        return self._selected(rows, rows, lambda row: row["messages"])

    def training_prompts(self) -> list[dict]:
        """Rows {"messages", …} for reinforcement learning."""
        rows = self._prompts()
        return rows if self.evaluation else self._divided(rows)[0]

    def evaluation_prompts(self) -> list[dict]:
        """Rows {"messages", …} that no stage trained on."""
        if self.evaluation:
            return read.prompts(self.evaluation, key="data.evaluation")
        return self._divided(self._prompts())[1]

    def need(self, name: str) -> DataSource:
        """The source of that name; ConfigError says which key to set where there is none."""
        source = getattr(self, name)
        if source is None:
            raise ConfigError(f"data.{name}: this stage needs it; give a file or hub name, or data.preferences to derive it "
                              "from, or `data.practice: {}` for the practice world")
        return source

    def _prompts(self) -> list[dict]:
        if self.prompts is None and self.mixture:
            return [row for place, source in enumerate(self.mixture) for row in read.prompts(source, f"data.mixture.{place}")]
        return read.prompts(self.need("prompts"))

    def _divided(self, rows: list[dict]) -> tuple[list[dict], list[dict]]:
        held = held_out([row["messages"] for row in rows], self.hold_out, self.seed)
        both = list(zip(rows, held, strict=True))
        return [row for row, out in both if not out], [row for row, out in both if out]

    def _selected(self, rows: datasets.Dataset, dialogues: datasets.Dataset, prompt: Callable[[dict], list]) -> tuple:
        """`rows` in two parts, trained on and held out, as `prompt` of the same row of `dialogues` says."""
        held = held_out([prompt(row) for row in dialogues], self.hold_out, self.seed)
        return rows.select([i for i, out in enumerate(held) if not out]), rows.select([i for i, out in enumerate(held) if out])


def sources(config: RunConfig, folder: RunFolder | None) -> ResolvedSources:
    """The sources of `config`, with the defaults that its DataSection states; practice files are those in folder.data.

    folder may be None where there is no practice world.
    """
    given = {name: getattr(config.data, name) for name in _PRACTICE_FILES}
    if config.data.practice:
        made = {name: DataSource(path=str(Path(folder.data) / file)) for name, file in _PRACTICE_FILES.items()}
        given = {name: given[name] or made[name] for name in given}
    given["instructions"] = given["instructions"] or given["preferences"]
    given["prompts"] = given["prompts"] or given["preferences"] or given["instructions"]
    given["base_text"] = given["base_text"] or given["instructions"]
    gap = config.reward_model.minimum_gap
    return ResolvedSources(**given, hold_out=config.data.hold_out, seed=config.run.seed, minimum_gap=gap,
                           mixture=tuple(config.data.mixture))


def held_out(prompts: list[list[dict]], share: float, seed: int) -> list[bool]:
    """True for about `share` of the prompts [n lists of messages], at least one where share > 0; equal prompts agree."""
    if not prompts or not share:
        return [False] * len(prompts)
    places = [_place(prompt, seed) for prompt in prompts]
    edge = max(share, min(places))
    return [place <= edge for place in places]


def _place(prompt: list[dict], seed: int) -> float:
    """A number in [0, 1) that depends on the prompt's text and the seed alone."""
    text = json.dumps([[turn["role"], turn["content"]] for turn in prompt], ensure_ascii=False)
    return int.from_bytes(hashlib.blake2b(f"{seed}\n{text}".encode(), digest_size=8).digest()) / 2**64
