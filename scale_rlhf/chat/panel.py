"""All models of a chat at once: an engine each, and the reward model beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from scale_rlhf.chat.settings import Wishes, reward_config
from scale_rlhf.chat.speakers import Speaker
from scale_rlhf.chat.voice import Answer, Voice
from scale_rlhf.orchestration.deadlines import first_failure
from scale_rlhf.reward.interface import RewardFleet
from scale_rlhf.reward.make import make_reward

Changed = Callable[[Sequence[Answer]], None]


class Panel:
    """Context manager; inside, Ray must be up. `ask`, again and again."""

    def __init__(self, speakers: Sequence[Speaker], scorer: Speaker | None, wishes: Wishes):
        seats = len(speakers) + (scorer is not None)
        self.voices = [Voice(speaker, seats, wishes) for speaker in speakers]
        self.rewards = _rewards(scorer, self.voices, seats) if scorer else []
        self.turn = 0

    def __enter__(self) -> Panel:
        self.runner = asyncio.Runner()  # Ctrl-C then cancels what runs in it and waits for that
        try:
            self.runner.run(self._start())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.runner.run(self._close())
        self.runner.close()

    def begin_again(self) -> None:
        """The next question is the first one."""
        for voice in self.voices:
            voice.begin_again()

    def ask(self, text: str, changed: Changed) -> list[Answer]:
        """What each says. changed: is called with all answers whenever there is more of one. Ctrl-C stops the answers alone."""
        answers = [voice.ask(text) for voice in self.voices]
        self.turn += 1
        try:
            self.runner.run(self._answer(answers, changed))
        except KeyboardInterrupt:
            for answer in answers:
                answer.state = "stopped" if answer.state == "answers" else answer.state
        for voice, answer in zip(self.voices, answers, strict=True):
            voice.keep(answer)
        return answers

    async def _start(self) -> None:
        await _all([*(voice.start() for voice in self.voices), *(reward.start() for reward in dict.fromkeys(self.rewards))])

    async def _close(self) -> None:
        for reward in self.rewards:
            reward.close()
        await asyncio.gather(*(voice.close() for voice in self.voices))

    async def _answer(self, answers: list[Answer], changed: Changed) -> None:
        async def one(place: int, voice: Voice) -> None:
            async for _ in voice.answer(answers[place], self.turn):
                changed(answers)
            if self.rewards and answers[place].sample is not None:
                [answers[place].score] = await self.rewards[place].score([answers[place].sample], fixed=False, group=0)
                changed(answers)

        await _all([one(place, voice) for place, voice in enumerate(self.voices)])


def _rewards(scorer: Speaker, voices: Sequence[Voice], seats: int) -> list[RewardFleet]:
    """The reward model as each voice's answers are read: once for all voices of one vocabulary, whose tokens it may share."""
    config, made, each = reward_config(scorer, seats), {}, []
    for voice in voices:
        words = frozenset(voice.tokenizer.get_vocab().items())
        if words not in made:
            made[words] = make_reward(config, model=scorer.path, policy=voice.speaker.path)
        each.append(made[words])
    return each


async def _all(coroutines: Sequence) -> None:
    """All of them; when one fails the others are ended before its error travels."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except BaseExceptionGroup as failures:
        raise first_failure(failures) from failures
