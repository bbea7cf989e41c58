"""Greedy responses, one to each prompt that is being answered: what ReMax compares with.

A greedy response shares the fate of its prompt's samples. It is asked for with the first of them, scored in the same call,
and issued again where they are; its score goes with each of them into the batch and into ppo/samples.jsonl. It is no sample:
it is not admitted, not trained on, and counted on its own (`baseline/responses`).
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence

from scale_rlhf.experience.sample import Prompt, Sample


class Baselines:
    """Used from one asyncio loop."""

    def __init__(self, generate: Callable[..., Coroutine], missing_end_penalty: float | None):
        """generate: of the rollout fleet. missing_end_penalty: added to the score of one that never ended, as to samples'."""
        self.generate, self.penalty = generate, missing_end_penalty or 0.0
        self._asked: dict[int, asyncio.Task] = {}  # by group
        self._ended = 0

    def ask(self, prompt: Prompt, tasks: asyncio.TaskGroup) -> None:
        """A sample of this prompt starts."""
        if prompt.group not in self._asked:
            self._asked[prompt.group] = tasks.create_task(self.generate(prompt, temperature=0.0))

    async def of(self, samples: Sequence[Sample]) -> dict[int, Sample]:
        """The greedy responses to the prompts of these samples, which have all ended, by group."""
        found = {group: await self._asked.pop(group) for group in dict.fromkeys(one.prompt.group for one in samples)}
        self._ended += len(found)
        return found

    def score(self, response: Sample, score: float) -> float:
        """What a greedy response's score is as a baseline."""
        return score + (0.0 if response.ended else self.penalty)

    def take(self) -> dict[str, float]:
        """Metrics since the last call."""
        ended, self._ended = self._ended, 0
        return {"baseline/responses": float(ended)}
