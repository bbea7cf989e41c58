"""One model in the conversation: its engine, its tokenizer, and what was said. Each model sees its own answers alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from scale_rlhf.chat.settings import Wishes, engine_config
from scale_rlhf.chat.speakers import Speaker
from scale_rlhf.data.chat import load_tokenizer, plain_ids, prompt_ids
from scale_rlhf.errors import ConfigError
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.rollout.answers import engine_options
from scale_rlhf.rollout.fleet import RolloutFleet


@dataclass
class Answer:
    """What one model says to one question, as far as it is."""

    name: str  # of the model
    text: str = ""
    tokens: int = 0
    state: Literal["answers", "ended", "cut", "stopped", "full"] = "answers"  # full: the conversation is too long for it
    score: float | None = None  # the reward model's
    sample: Sample | None = field(default=None, repr=False)


class Voice:
    """Used from one asyncio loop, in which it is started and closed."""

    def __init__(self, speaker: Speaker, seats: int, wishes: Wishes):
        """seats: engines and reward models that share the machine. Raises ConfigError where its tokenizer does not do."""
        self.speaker, self.wishes = speaker, wishes
        self.temperature = speaker.config.evaluation.temperature if wishes.temperature is None else wishes.temperature
        self.config = engine_config(speaker, seats, wishes)
        self.tokenizer = load_tokenizer(speaker.path, self.config.model)
        self.context = self.config.data.max_prompt_tokens + self.config.rollout.max_response_tokens
        self.fleet = RolloutFleet(self.config, speaker.path, [self.tokenizer.eos_token_id])
        self.begin_again()
        _check_system(self)

    def begin_again(self) -> None:
        """Nothing has been said yet."""
        self.messages = [{"role": "system", "content": self.wishes.system}] if self.wishes.system else []

    async def start(self) -> None:
        await self.fleet.start([engine_options(self.config.rollout)])

    async def close(self) -> None:
        await self.fleet.close()

    def ask(self, text: str) -> Answer:
        """The user's turn, to which `answer` is the reply."""
        self.messages.append({"role": "user", "content": text})
        return Answer(self.speaker.name)

    async def answer(self, answer: Answer, turn: int) -> AsyncIterator[None]:
        """Fills in the answer while it comes, and passes each time there is more of it. The same turn gives the same answer."""
        chat = prompt_ids(self.tokenizer, self.messages)
        asked = plain_ids(self.tokenizer, self.messages) if self.speaker.plain else chat
        room = min(self.config.rollout.max_response_tokens, self.context - len(asked))
        if room < 1:
            answer.state = "full"
            return
        prompt = Prompt(turn, turn, np.asarray(asked, np.int32))
        growing = self.fleet.stream(prompt, max_tokens=room, temperature=self.temperature)
        # The reward model reads it as the answer to the chat, whoever was asked how.
        read = Prompt(turn, turn, np.asarray(chat, np.int32), {"messages": list(self.messages)})
        async with aclosing(growing):
            async for sample in growing:
                said = self.tokenizer.decode(sample.response_ids.tolist(), skip_special_tokens=True)
                answer.text = said if sample.ended else said.rstrip("\ufffd")  # a letter of several tokens may not be whole yet
                answer.tokens, answer.sample = len(sample.response_ids), replace(sample, prompt=read)
                yield
        answer.state = "ended" if answer.sample.ended else "cut"

    def keep(self, answer: Answer) -> None:
        """That was its answer: what was stopped stays as far as it came; a question without an answer is forgotten."""
        if answer.text:
            self.messages.append({"role": "assistant", "content": answer.text})
        else:
            self.messages.pop()


def _check_system(voice: Voice) -> None:
    """Some templates raise an error where there is a system message."""
    try:
        prompt_ids(voice.tokenizer, [*voice.messages, {"role": "user", "content": "?"}])
    except Exception as error:  # a template is a program: it may fail in any way
        raise ConfigError(f"--system: the chat template of {voice.speaker.path} takes no system message: {error}") from error
