"""Greedy responses, one to each prompt that is being answered: what ReMax compares with.

A greedy response shares the fate of its prompt's samples. It is asked for with the first of them, scored in the same call,
and issued again where they are; its reward goes with each of them into the batch and into ppo/samples.jsonl. It is no sample:
it is not admitted, not trained on, and counted on its own (`baseline/responses`).
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence

import numpy as np
import torch

from scale_rlhf.algorithms.kl import kl_estimate
from scale_rlhf.config.schema import PPOSection
from scale_rlhf.experience.sample import Prompt, Sample


class Baselines:
    """Used from one asyncio loop."""

    def __init__(self, generate: Callable[..., Coroutine], ppo: PPOSection):
        """generate: of the rollout fleet."""
        self.generate, self.ppo = generate, ppo
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

    def reward(self, response: Sample, score: float, reference_logprobs: np.ndarray, coefficient: float) -> float:
        """What a greedy response is rewarded with, as a sample would be: its score with the penalties, by coefficient β.

        Without its own KL the baseline would be off by as much everywhere, and a loss that clips would take that for a reason.
        """
        if not response.ended:
            score += self.ppo.missing_end_penalty or 0.0
        if self.ppo.kl_in == "loss":
            return score
        kl = kl_estimate(torch.from_numpy(response.logprobs), torch.from_numpy(reference_logprobs), self.ppo.kl_estimator)
        return score - coefficient * float(kl.double().sum())

    def take(self) -> dict[str, float]:
        """Metrics since the last call."""
        ended, self._ended = self._ended, 0
        return {"baseline/responses": float(ended)}
