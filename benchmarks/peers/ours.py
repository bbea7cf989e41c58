"""Our roles, started once, and loops run over them: the real Ray actors, engine, servers and DeepSpeed groups."""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import models, runs
from benchmarks.peer import serve
from benchmarks.pin import pin
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.experience.buffer import Scored
from scale_rlhf.experience.prompts import PromptStream
from scale_rlhf.experience.sample import Sample
from scale_rlhf.orchestration.loop import Loop
from scale_rlhf.orchestration.roles import Roles, StartingModels
from scale_rlhf.training.batch import TrainingBatch
from scale_rlhf.training.critic_free import critic_free_advantages


def distinct_tokens(documents: list[dict]) -> list[float]:
    """The reward that TRL is given too: the share of a response's tokens that differ."""
    return [len(set(one["response_ids"])) / max(1, len(one["response_ids"])) for one in documents]


class Ours:
    """The roles of one configuration. Loops differ in steps and staleness alone."""

    def __init__(
        self, model: str, size: str, sections: dict[str, Any], prompts: list[list[int]], lengths: list[int] | None = None,
        pinned: bool = False,
    ):
        """lengths: response tokens of each prompt; None: all of rollout.max_response_tokens. pinned: the engine on core 0,
        everything else on core 1.
        """
        self.config = runs.config(**sections)
        self.ids = prompts
        self.rows = [{"max_tokens": length} for length in lengths] if lengths else [{} for _ in prompts]
        self.seconds_of_start = time.perf_counter()
        self.ray = runs.ray(self.config)
        self.ray.__enter__()
        self.events = asyncio.new_event_loop()
        self.concurrency = asyncio.Semaphore(100_000)
        self.roles = Roles(self.config, self._models(model, size), [])
        self.events.run_until_complete(self.roles.start())
        self._own_lengths()
        if pinned:
            pin(self.roles.rollout.engines, engine_core=0, other_core=1)
        self.ready = {"start_seconds": time.perf_counter() - self.seconds_of_start}

    def loop(self, steps: int, staleness: int, warm: int, last: int = 0) -> dict[str, float]:
        """A new loop of so many steps. Measured from the end of step `warm` to the end of the one `last` before the last."""
        config = self._config(steps, staleness)
        return self.events.run_until_complete(self._loop(config, warm, last))

    def limit(self, concurrency: int) -> None:
        """Samples that the engine decodes at once, from now on."""
        self.concurrency = asyncio.Semaphore(concurrency)

    def batch_synchronous(self, steps: int, first: int = 0) -> dict[str, float]:
        """Generate all, then score all, then update and publish: nothing at the same time but the two updates.

        first: the batch to begin with, as below.
        """
        self.events.run_until_complete(self._begin())
        started = time.perf_counter()
        for step in range(first, first + steps):
            self.events.run_until_complete(self._whole_step(step))
        return self._per_step(time.perf_counter() - started, steps)

    def parts(self, steps: int, first: int = 0) -> dict[str, float]:
        """Seconds a step of every part with nothing else running: generate, score, update, publish, load."""
        self.events.run_until_complete(self._begin())
        taken: dict[str, float] = {}
        for step in range(first, first + steps):
            self.events.run_until_complete(self._whole_step(step, taken))
        return {part: seconds / steps for part, seconds in taken.items()}

    def stream(self, steps: int, first: int = 0) -> dict[str, float]:
        """Seconds a batch, with nothing else running, when so many are generated without a pause: none waits for the last
        sample of the one before. The samples are kept for `learner`.
        """
        return self.events.run_until_complete(self._generated([self._batch(step) for step in range(first, first + steps)]))

    def learner(self) -> dict[str, float]:
        """Seconds a batch of what follows on what `stream` generated: score, advantages, update, publish, load."""
        return self.events.run_until_complete(self._learned())

    async def _loop(self, config: RunConfig, warm: int, last: int) -> dict[str, float]:
        await self._begin()
        ends: list[float] = []
        numbers: list[dict[str, float]] = []

        async def on_step(step) -> None:
            ends.append(time.perf_counter())
            numbers.append(step.metrics)

        loop = Loop(config, self.roles, self._stream(), on_step)
        loop.parity.probe_with([np.asarray(ids, dtype=np.int32) for ids in self.ids])
        started = time.perf_counter()
        await loop.run()
        counted = len(ends) - warm - last
        begin = ends[warm - 1] if warm else started
        shown = numbers[warm : len(numbers) - last]
        staleness = max(one["staleness/max"] for one in numbers)
        return self._per_step(ends[-1 - last] - begin, counted) | means(shown) | {"staleness": staleness}

    async def _generated(self, prompts: list[list]) -> dict[str, float]:
        await self._begin()
        started = time.perf_counter()
        samples = await asyncio.gather(*(self.roles.rollout.generate(prompt) for batch in prompts for prompt in batch))
        seconds, size = time.perf_counter() - started, self._size()
        self.batches = [list(samples[place : place + size]) for place in range(0, len(samples), size)]
        return {"stream": seconds / len(prompts)}

    async def _learned(self) -> dict[str, float]:
        taken: dict[str, float] = {}
        for step, batch in enumerate(self.batches):
            await self._learn(batch, step, Laps(taken))
        return {part: seconds / len(self.batches) for part, seconds in taken.items()}

    async def _begin(self) -> None:
        """The policy's present weights are version 0."""
        info = await self.roles.policy.publish(0)
        await self.roles.rollout.load(0, info)

    async def _whole_step(self, step: int, taken: dict[str, float] | None = None) -> None:
        taken = {} if taken is None else taken
        clock = Laps(taken)
        samples = await asyncio.gather(*(self.roles.rollout.generate(prompt) for prompt in self._batch(step)))
        clock.lap("generate")
        await self._learn(list(samples), step, clock)

    async def _learn(self, samples: list[Sample], step: int, clock: "Laps") -> None:
        scored = await self._scored(samples)
        clock.lap("score")
        training = TrainingBatch(
            [one.sample for one in scored], np.asarray([one.score for one in scored], dtype=np.float32),
            [one.reference_logprobs for one in scored], self.config.ppo.kl_coefficient)
        advantages, _ = await self._advantages(training)
        clock.lap("advantages")
        await asyncio.gather(
            self.roles.policy.update(training, advantages, step),
            *([self.roles.value.update(training, step)] if self.roles.value is not None else []))
        clock.lap("update")
        info = await self.roles.policy.publish(step + 1)
        clock.lap("publish")
        await self.roles.rollout.load(step + 1, info)
        clock.lap("load")

    async def _scored(self, samples: list[Sample]) -> list[Scored]:
        scores, references = await asyncio.gather(
            self.roles.reward.score(samples, fixed=True, group=0), self.roles.reference.logprobs(samples, fixed=True, group=0))
        return [Scored(*one) for one in zip(samples, scores, references, strict=True)]

    async def _advantages(self, training: TrainingBatch):
        if self.roles.value is None:
            return critic_free_advantages(training, self.config.ppo)
        return await self.roles.value.prepare(training)

    def _batch(self, step: int) -> list:
        stream, size = self._stream(), self._size()
        prompts = [stream[index] for index in range((step + 1) * size)]
        return prompts[step * size :]

    def _stream(self):
        return PromptStream(self.ids, self.rows, responses=self.config.ppo.responses_per_prompt, seed=0)

    def _size(self) -> int:
        return self.config.ppo.prompts_per_step * self.config.ppo.responses_per_prompt

    def _per_step(self, seconds: float, steps: int) -> dict[str, float]:
        return {"seconds": seconds / steps, "rate": steps * self._size() / seconds}

    def _config(self, steps: int, staleness: int) -> RunConfig:
        config = self.config.model_copy(deep=True)
        config.ppo.steps, config.overlap.max_staleness = steps, staleness
        return config

    def _models(self, model: str, size: str) -> StartingModels:
        reward = None
        if not self.config.reward.function:
            self.folder = tempfile.TemporaryDirectory(prefix="scale-rlhf-bench-")
            reward = str(models.make_classifier(Path(self.folder.name) / "reward", size))
        value = model if self.config.ppo.advantages == "gae" else None
        return StartingModels(model, model, value, reward)

    def _own_lengths(self) -> None:
        """Each prompt's row says how long its answer is, and a semaphore how many decode at once."""
        generate = self.roles.rollout.generate

        async def limited(prompt):
            async with self.concurrency:
                return await generate(prompt, **prompt.row)

        self.roles.rollout.generate = limited

    def close(self) -> None:
        self.events.run_until_complete(self.roles.close())
        self.ray.__exit__(None, None, None)


def means(steps: list[dict[str, float]]) -> dict[str, float]:
    """Of what every step says of its times."""
    shown = [key for key in steps[0] if key.startswith(("idle/", "time/", "weights/")) and all(key in one for one in steps)]
    return {key: float(np.mean([one[key] for one in steps])) for key in shown}


class Laps:
    """Adds the seconds since the last lap to a part."""

    def __init__(self, taken: dict[str, float]):
        self.taken, self.since = taken, time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.taken[part] = self.taken.get(part, 0.0) + now - self.since
        self.since = now


if __name__ == "__main__":
    serve(Ours)
