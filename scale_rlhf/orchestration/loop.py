"""The loop. One asynchronous loop; `overlap.max_staleness` alone decides how far its two sides overlap.

    admit ──► generate ──► reward + reference ──► buffer ──► learn ──► publish
      ▲        one task a sample     by groups              a batch      │
      └──────────── Admission: at most (v + k + 1)·B samples ◄───────────┘

| who    | waits for                                                | bound                        |
|--------|----------------------------------------------------------|------------------------------|
| admit  | a version to be published (`Admission.allowed`)          | (v + k + 1)·B samples ever   |
| sample | its engine, then the other members of its scoring group  | limits.generate_seconds      |
| score  | reward and reference, both at once                       | limits.score_seconds         |
| learn  | B scored samples, and each that may get no older         | the limits above             |

Every sample is accounted for: admitted = trained + filtered + in flight. A failure anywhere ends all tasks and
travels to the caller.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import numpy as np

from scale_rlhf.algorithms.kl import AdaptiveKLController
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.experience.admission import Admission
from scale_rlhf.experience.buffer import Buffer, Scored
from scale_rlhf.experience.grouping import ScoringGroups
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.orchestration.deadlines import first_failure
from scale_rlhf.orchestration.parity import Parity
from scale_rlhf.orchestration.roles import Roles
from scale_rlhf.orchestration.step_metrics import StepClock, step_metrics
from scale_rlhf.training.batch import TrainingBatch


@dataclass(frozen=True)
class Step:
    """What one update did: it made `version` from `batch`."""

    version: int
    batch: list[Scored]
    metrics: dict[str, float]


class Loop:
    """Makes config.ppo.steps versions of the policy from a stream of prompts. `roles` are started."""

    def __init__(self, config: RunConfig, roles: Roles, prompts: Iterator[Prompt], on_step: Callable[[Step], Awaitable[None]]):
        """on_step: awaited after each version is published; the next batch is generated meanwhile."""
        ppo, staleness = config.ppo, config.overlap.max_staleness
        self.config, self.roles, self.prompts, self.on_step = config, roles, prompts, on_step
        self.batch = ppo.prompts_per_step * ppo.responses_per_prompt
        self.admission = Admission(self.batch, staleness, total=ppo.steps * self.batch)
        self.buffer = Buffer(self.batch, staleness)
        self.groups = ScoringGroups(self.batch, config.overlap.score_group)
        self.fixed = staleness == 0  # then nothing may depend on timing: scoring is cut by sample index
        self.kl_coefficient = ppo.kl_coefficient
        self.controller = AdaptiveKLController(ppo.kl_coefficient, ppo.kl_target, ppo.kl_horizon) if ppo.kl_target else None
        self.parity = Parity(config, roles)
        self.clock = StepClock()
        self.changed = asyncio.Event()  # something that a waiting coroutine looks at has changed

    async def run(self) -> None:
        """Returns when the last version is published. Raises the first failure of any task."""
        try:
            async with asyncio.TaskGroup() as tasks:
                admitting = tasks.create_task(self._admit(tasks))
                await self._learn()
                admitting.cancel()
        except ExceptionGroup as failures:
            raise first_failure(failures) from None

    async def _admit(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            while self.admission.allowed:
                prompt = next(self.prompts)
                self.buffer.admitted(prompt.index, self.admission.admit())
                self.clock.admitted(prompt.index)
                tasks.create_task(self._sample(prompt, tasks))
            await self._until(lambda: self.admission.allowed > 0)

    async def _sample(self, prompt: Prompt, tasks: asyncio.TaskGroup) -> None:
        sample = await self.roles.rollout.generate(prompt)
        self.clock.generated(prompt.index)
        if whole := self.groups.add(sample):
            tasks.create_task(self._score(*whole))

    async def _score(self, number: int, samples: list[Sample]) -> None:
        scores, references = await asyncio.gather(
            self.roles.reward.score(samples, fixed=self.fixed, group=number),
            self.roles.reference.logprobs(samples, fixed=self.fixed, group=number),
        )
        for sample, score, reference in zip(samples, scores, references, strict=True):
            self.buffer.add(Scored(sample, score, reference))
            self.clock.scored(sample.index)
        self._notify()

    async def _learn(self) -> None:
        metrics = await self.parity.probe(0)
        for version in range(self.config.ppo.steps):
            batch = await self._batch(version)
            metrics |= await self._update(version, batch)
            published = asyncio.create_task(self._publish(version + 1))
            try:
                metrics |= await self.value_update | await published
            finally:
                published.cancel()
            metrics |= await self.parity.probe(version + 1) | await self._role_metrics()
            metrics |= step_metrics(batch, version, self.kl_coefficient) | self.clock.step([one.sample.index for one in batch])
            metrics |= {"time/score": metrics["reward_server/busy_seconds"],
                        "time/reference": metrics["reference_server/busy_seconds"],
                        "tokens/per_second": metrics["tokens/step"] / metrics["time/step"]}
            self._adapt(metrics["kl/reference_mean"])
            await self.on_step(Step(version + 1, batch, metrics))
            metrics = {}

    async def _batch(self, version: int) -> list[Scored]:
        await self._until(lambda: self.buffer.whole(version))
        return self.buffer.take(version)

    async def _update(self, version: int, batch: list[Scored]) -> dict[str, float]:
        """Policy and value update at the same time; the value's end is awaited beside publishing."""
        training = TrainingBatch(
            [one.sample for one in batch], np.asarray([one.score for one in batch], dtype=np.float32),
            [one.reference_logprobs for one in batch], self.kl_coefficient,
        )
        with self.clock.time("value_prepare"):
            advantages, prepared = await self.roles.value.prepare(training)
        self.value_update = asyncio.create_task(self._update_value(training, version))
        try:
            with self.clock.time("update_policy"):
                policy = await self.roles.policy.update(training, advantages, version)
        except BaseException:
            self.value_update.cancel()
            raise
        return prefixed("policy", policy) | prefixed("value", prepared)

    async def _update_value(self, training: TrainingBatch, version: int) -> dict[str, float]:
        with self.clock.time("update_value"):
            updated = await self.roles.value.update(training, version)
            return prefixed("value", {f"update_{key}": number for key, number in updated.items()})

    async def _publish(self, version: int) -> dict[str, float]:
        with self.clock.time("publish"):
            info = await self.roles.policy.publish(version)
            stopped = await self.roles.rollout.load(version, info) if info else 0.0
        self.admission.train(self.batch)  # engines decode for the next version from here on
        self._notify()
        return {"time/engines_stopped": stopped}

    async def _role_metrics(self) -> dict[str, float]:
        rollout, reward, reference = await asyncio.gather(
            self.roles.rollout.metrics(), self.roles.reward.metrics(), self.roles.reference.metrics())
        return prefixed("rollout", rollout) | prefixed("reward_server", reward) | prefixed("reference_server", reference)

    def _adapt(self, observed: float) -> None:
        if self.controller is not None:
            self.kl_coefficient = self.controller.update(observed, self.batch)

    async def _until(self, condition: Callable[[], bool]) -> None:
        # No deadline of its own: whatever makes the condition true has one, and its failure cancels this wait.
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    def _notify(self) -> None:
        self.changed.set()


def prefixed(role: str, numbers: dict[str, float]) -> dict[str, float]:
    return {f"{role}/{key}": number for key, number in numbers.items()}
