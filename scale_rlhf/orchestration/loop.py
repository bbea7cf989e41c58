"""The loop. One asynchronous loop; `overlap.max_staleness` alone decides how far its two sides overlap.

    admit ──► generate ──► reward + reference ──► buffer ──► learn ──► publish
      ▲        one task a sample     by groups              a batch      │
      └──────────── Admission: at most (v + k + 1)·B samples ◄───────────┘

| who    | waits for                                                | bound                        |
|--------|----------------------------------------------------------|------------------------------|
| admit  | a version to be in every engine (`Admission.allowed`)    | (v + k + 1)·B samples ever   |
| sample | its engine, then the other members of its scoring group  | limits.generate_seconds      |
| score  | reward and reference, both at once                       | limits.score_seconds         |
| learn  | B scored samples, and each that may get no older         | the limits above             |
| load   | engines that take a version, while the learner goes on   | limits.publish_seconds       |

With k = 0 the learner waits until a version is loaded, since no sample can start before. With k > 0 it goes on with the
next batch the moment the weights are handed over.

Every sample is accounted for: admitted = trained + filtered + in flight. A failure anywhere ends all tasks and
travels to the caller.
"""

import asyncio
import gc
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from scale_rlhf.algorithms.kl import AdaptiveKLController
from scale_rlhf.config.methods import ADVANTAGES
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.experience.admission import Admission
from scale_rlhf.experience.buffer import Buffer, Scored
from scale_rlhf.experience.grouping import ScoringGroups
from scale_rlhf.experience.prompts import PromptStream
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.orchestration import bad_numbers
from scale_rlhf.orchestration.bad_numbers import BadNumbers
from scale_rlhf.orchestration.baselines import Baselines
from scale_rlhf.orchestration.deadlines import RoleFailed, first_failure
from scale_rlhf.orchestration.dynamic_sampling import DynamicSampling
from scale_rlhf.orchestration.loop_state import LoopState
from scale_rlhf.orchestration.parity import Parity
from scale_rlhf.orchestration.roles import Roles
from scale_rlhf.orchestration.step_metrics import StepClock, rates, step_metrics
from scale_rlhf.reward.interface import ScoringFailed
from scale_rlhf.telemetry.spans import Span
from scale_rlhf.training.batch import TrainingBatch
from scale_rlhf.training.critic_free import critic_free_advantages


@dataclass(frozen=True)
class Step:
    """What one update did: it made `version` from `batch`. lanes: what every actor did since the step before."""

    version: int
    batch: list[Scored]
    metrics: dict[str, float]
    lanes: dict[str, list[Span]] = field(default_factory=dict)


class Loop:
    """Makes config.ppo.steps versions of the policy from a stream of prompts. `roles` are started."""

    def __init__(self, config: RunConfig, roles: Roles, prompts: PromptStream, on_step: Callable[[Step], Awaitable[None]],
                 start: LoopState | None = None, skip: Collection[int] = (),
                 on_filtered: Callable[[Sample, str], None] = lambda sample, reason: None):
        """on_step: awaited after each version is handed over, and before the next update; generation goes on meanwhile.

        start: where to go on from; the policy and the value model must hold that version. skip: indices of samples that are
        left out as soon as it is their turn. on_filtered: told of a sample that will not be trained on, and why.
        """
        ppo, staleness = config.ppo, config.overlap.max_staleness
        self.start, self.skip, self.on_filtered = start, frozenset(skip), on_filtered
        self.failed_in_a_row = 0  # groups that could not be scored
        self.config, self.roles, self.prompts, self.on_step = config, roles, prompts, on_step
        self.batch = ppo.prompts_per_step * ppo.responses_per_prompt
        self.admission = Admission(self.batch, staleness, total=ppo.steps * self.batch)
        self.buffer = Buffer(self.batch, staleness)
        # At staleness 0 nothing may depend on timing: scoring is cut by sample index. Otherwise a prompt's responses are
        # scored the moment they are whole, and the servers batch what arrives.
        self.fixed = staleness == 0
        self.groups = ScoringGroups(group_size(config))
        self.kl_coefficient = ppo.kl_coefficient
        self.controller = AdaptiveKLController(ppo.kl_coefficient, ppo.kl_target, ppo.kl_horizon) if ppo.kl_target else None
        penalty, greedy = ppo.missing_end_penalty, ADVANTAGES[ppo.advantages].greedy
        self.baselines = Baselines(roles.rollout.generate, ppo) if greedy else None
        self.dynamic = DynamicSampling(config.limits.silent_groups, penalty) if ppo.dynamic_sampling else None
        self.parity = Parity(config, roles)
        self.clock = StepClock()
        self.waiting: dict[asyncio.Future, Callable[[], bool]] = {}  # who waits, and for what to be true
        self.loads: deque[asyncio.Task] = deque(maxlen=2)  # of the last two versions
        self.loaded: dict[str, float] = {}  # numbers of versions that reached the engines since the last step

    async def run(self) -> None:
        """Returns when the last version is in every engine. Raises the first failure of any task."""
        try:
            with rare_garbage_collection():
                async with asyncio.TaskGroup() as tasks:
                    self.tasks = tasks
                    metrics = await (self._begin() if self.start is None else self._go_on(self.start))
                    beside = [tasks.create_task(self._admit()), tasks.create_task(self._watch())]
                    await self._learn(metrics)
                    for task in beside:
                        task.cancel()
        except ExceptionGroup as failures:
            raise first_failure(failures) from None

    def state(self) -> LoopState:
        """What to go on from, once `on_step` was told of a step and before the next update."""
        return LoopState(
            self.buffer.version, self.kl_coefficient, self.admission.admitted, self.admission.filtered,
            self.buffer.in_flight, self.buffer.scored, self.parity.shown,
        )

    async def _begin(self) -> dict[str, float]:
        return await self.parity.begin(0)

    async def _go_on(self, start: LoopState) -> dict[str, float]:
        """Engines take the version first: no sample may start with older weights than it was admitted with."""
        before = start.version - 1
        self.admission.version, self.admission.trained = before, before * self.batch
        self.admission.admitted, self.admission.filtered = start.admitted, start.filtered
        self.buffer.version, self.kl_coefficient, self.parity.shown = start.version, start.kl_coefficient, start.probe
        if self.controller is not None:
            self.controller.coefficient = start.kl_coefficient
        await self._publish(start.version)
        await self.loads[-1]
        self.loaded = {}
        for index, version in start.in_flight:
            self.buffer.admitted(index, version)
        for one in start.scored:
            if one.sample.index in self.skip:
                self._filter([one.sample], SKIPPED)
            else:
                self.buffer.add(one)
                self.clock.went_through(one.sample.index)
        self._issue(start.unfinished())
        return {}

    async def _admit(self) -> None:
        while True:
            admitted = []
            while self.admission.allowed:
                admitted.append(self.admission.admitted)
                self.buffer.admitted(admitted[-1], self.admission.admit())
            self._issue(admitted)
            await self._until(lambda: self.admission.allowed > 0)

    def _issue(self, indices: Sequence[int]) -> None:
        """Start samples that are admitted."""
        for index in indices:
            if index in self.skip:
                self._filter([unanswered(self.prompts[index])], SKIPPED)
                continue
            self.groups.admit(index)
            self.clock.admitted(index)
            prompt = self.prompts[index]
            self.tasks.create_task(self._sample(prompt))
            if self.baselines:
                self.baselines.ask(prompt, self.tasks)
        self.groups.close()

    async def _sample(self, prompt: Prompt) -> None:
        sample = await self.roles.rollout.generate(prompt)
        self.clock.generated(prompt.index)
        if whole := self.groups.add(sample):
            await self._score(*whole)

    async def _score(self, number: int, samples: list[Sample]) -> None:
        greedy = await self.baselines.of(samples) if self.baselines else {}
        everything = [*samples, *greedy.values()]
        try:
            asked = self.tasks.create_task(self.roles.reference.logprobs(everything, fixed=self.fixed, group=number))
            scores = await self.roles.reward.score(everything, fixed=self.fixed, group=number)
            references = await asked
            bad_numbers.check("rollout", "log-probability", everything, [sample.logprobs for sample in everything])
            bad_numbers.check("reference", "log-probability", everything, references)
        except ScoringFailed as failure:
            self._failed_scores(failure)
            self._filter(samples, str(failure))
            return
        except BadNumbers as failure:
            if self.config.limits.on_bad_numbers == "stop":
                raise
            self._filter(samples, str(failure))
            return
        self.failed_in_a_row = 0
        compared = zip(greedy.items(), scores[len(samples):], references[len(samples):], strict=True)
        baselines = {group: self.baselines.reward(one, score, reference, self.kl_coefficient)
                     for (group, one), score, reference in compared}
        silent = self.dynamic.silent(samples, scores) if self.dynamic else {}
        for sample, score, reference in zip(samples, scores, references, strict=False):
            group = sample.prompt.group
            if group in silent:
                self._filter([sample], silent[group])
                continue
            self.buffer.add(Scored(sample, score, reference, baselines.get(group)))
            self.clock.scored(sample.index)
        self._notify()

    def _failed_scores(self, failure: ScoringFailed) -> None:
        self.failed_in_a_row += 1
        if self.failed_in_a_row > self.config.limits.failed_scores:
            raise RunError(f"{self.failed_in_a_row} groups of samples in a row could not be scored (limits.failed_scores). "
                           f"The last: {failure}") from failure

    def _filter(self, samples: Sequence[Sample], reason: str) -> None:
        """Samples that will not be trained on: others start in their place."""
        for sample in samples:
            self._leave_out(sample.index)
            self.on_filtered(sample, reason)
        self._notify()

    def _leave_out(self, index: int) -> None:
        self.admission.filter()
        self.buffer.filter(index)
        self.clock.forget(index)

    async def _learn(self, metrics: dict[str, float]) -> None:
        for version in range(self.buffer.version, self.config.ppo.steps):
            batch = await self._batch()
            try:
                metrics |= await self._update(version, batch)
                await self._publish(version + 1)
                metrics |= await self.value_update
            except BadNumbers as failure:
                failure.batch = batch
                raise
            if self.fixed:
                await self.loads[-1]
            metrics |= step_metrics(batch, version, self.kl_coefficient)
            self._check_kl(metrics["kl/reference_mean"], version)
            self._adapt(metrics["kl/reference_mean"])
            await self._report(Step(version + 1, batch, metrics))
            metrics = {}
        await self.loads[-1]

    async def _batch(self) -> list[Scored]:
        with self.clock.time("wait_batch"):
            await self._until(lambda: self.buffer.whole)
        return self.buffer.take()

    async def _update(self, version: int, batch: list[Scored]) -> dict[str, float]:
        """Policy and value update at the same time; the value's end is awaited beside publishing."""
        if self.config.rollout.sleep:
            await self.roles.rollout.sleep()
        training = TrainingBatch(
            [one.sample for one in batch], np.asarray([one.score for one in batch], dtype=np.float32),
            [one.reference_logprobs for one in batch], self.kl_coefficient, await self._proximal(batch),
            np.asarray([one.baseline for one in batch], dtype=np.float32) if self.baselines else None,
        )
        advantages, prepared = await self._advantages(training)
        bad_numbers.check("value", "advantage", training.samples, advantages)
        self.value_update = self.tasks.create_task(self._update_value(training, version))
        if version < self.config.ppo.value_pretraining:
            return prefixed("value", prepared)  # the next version of the policy is this one
        with self.clock.time("update_policy"):
            policy = await self.roles.policy.update(training, advantages, version)
        return prefixed("policy", policy) | prefixed("value", prepared)

    async def _proximal(self, batch: list[Scored]) -> list[np.ndarray] | None:
        if self.config.overlap.anchor == "behaviour":
            return None
        with self.clock.time("proximal"):
            return await self.roles.policy.logprobs([one.sample for one in batch])

    async def _advantages(self, training: TrainingBatch) -> tuple[list[np.ndarray], dict[str, float]]:
        if self.roles.value is None:
            return await asyncio.to_thread(critic_free_advantages, training, self.config.ppo)
        with self.clock.time("value_prepare"):
            return await self.roles.value.prepare(training)

    async def _update_value(self, training: TrainingBatch, version: int) -> dict[str, float]:
        if self.roles.value is None:
            return {}
        with self.clock.time("update_value"):
            updated = await self.roles.value.update(training, version)
            return prefixed("value", {f"update_{key}": number for key, number in updated.items()})

    async def _publish(self, version: int) -> None:
        """Hand the version over. When this returns the policy may move on; engines load it meanwhile."""
        if len(self.loads) == 2:
            await self.loads[0]  # weights are double-buffered: this version takes the place of the last but one
        with self.clock.time("publish"):
            info = await self.roles.policy.publish(version)
            probe = await self.parity.trainer(version)
        self.loads.append(self.tasks.create_task(self._load(version, info, probe, list(self.loads))))

    async def _load(self, version: int, info: dict | None, probe: list[np.ndarray], earlier: list[asyncio.Task]) -> None:
        """Every engine takes the version, after those before; then samples may start with it."""
        await asyncio.gather(*earlier)
        with self.clock.time("load"):
            loaded = await self.roles.rollout.load(version, info) if info else {}
        self.admission.train(self.batch)  # engines decode for the next version from here on
        self._notify()
        self.loaded |= prefixed("weights", loaded) | await self.parity.compare(version, probe)

    async def _report(self, step: Step) -> None:
        metrics, loaded, self.loaded = step.metrics, self.loaded, {}
        metrics |= loaded | await self._role_metrics() | {
            "queue/filtered": float(self.admission.filtered), "queue/buffer": float(self.buffer.ready),
            "queue/in_flight": float(self.admission.in_flight)}
        for counted in (self.baselines, self.dynamic):
            metrics |= counted.take() if counted else {}
        lanes = await self._lanes()
        times, lanes["controller"] = self.clock.step([one.sample.index for one in step.batch], lanes)
        metrics |= times | rates(metrics) | {
            "time/score": metrics["reward_server/busy_seconds"], "time/reference": metrics["reference_server/busy_seconds"],
            "tokens/per_second": metrics["tokens/step"] / times["time/step"]}
        await self.on_step(Step(step.version, step.batch, metrics, lanes))
        gc.collect()

    async def _role_metrics(self) -> dict[str, float]:
        rollout, reward, reference = await asyncio.gather(
            self.roles.rollout.metrics(), self.roles.reward.metrics(), self.roles.reference.metrics())
        return prefixed("rollout", rollout) | prefixed("reward_server", reward) | prefixed("reference_server", reference)

    async def _lanes(self) -> dict[str, list[Span]]:
        each = await asyncio.gather(*(role.spans() for role in self.roles.all()))
        return {lane: spans for role in each for lane, spans in role.items()}

    def _check_kl(self, observed: float, version: int) -> None:
        limit = self.config.limits.kl
        if limit is not None and not observed <= limit:
            raise RunError(
                f"at step {version + 1} the policy's answers are {observed:.3g} nats from the reference, the limit is {limit:g} "
                "(limits.kl): it may have found something that the reward alone likes. Look at its newest answers in "
                "ppo/samples.jsonl; then raise ppo.kl_coefficient or lower the learning rate")

    def _adapt(self, observed: float) -> None:
        if self.controller is not None:
            self.kl_coefficient = self.controller.update(observed, self.batch)

    async def _watch(self) -> None:
        """A safety net under all deadlines: raises where nothing has gone on for limits.stall_seconds."""
        limit, seen, since = self.config.limits.stall_seconds, None, time.monotonic()
        while True:
            await asyncio.sleep(min(limit / 10, 10.0))
            progress = (self.clock.noted, self.buffer.version, self.admission.version)
            if progress != seen:
                seen, since = progress, time.monotonic()
            elif time.monotonic() - since > limit:
                late = self.buffer.late() or self.buffer.missing()
                raise RoleFailed(f"nothing has gone on for {limit:g} s (limits.stall_seconds): the policy is at version "
                                 f"{self.buffer.version}, {self.admission.in_flight} samples are in flight, "
                                 f"{self.buffer.ready} of them scored; the next batch waits for samples {late[:8]}")

    async def _until(self, condition: Callable[[], bool]) -> None:
        # No deadline of its own: whatever makes the condition true has one, and its failure cancels this wait.
        while not condition():
            turn = asyncio.get_running_loop().create_future()
            self.waiting[turn] = condition
            try:
                await turn
            finally:
                del self.waiting[turn]

    def _notify(self) -> None:
        """Something has changed: wake those whose condition is true now. With thousands of engines most changes wake nobody."""
        for turn, condition in self.waiting.items():
            if not turn.done() and condition():
                turn.set_result(None)


SKIPPED = "it was in a batch that made numbers that are not finite"


def unanswered(prompt: Prompt) -> Sample:
    """A sample without a response."""
    return Sample(prompt, np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.int32), ended=False)


def group_size(config: RunConfig) -> int:
    """Samples that are scored together. A prompt's responses never part: a group that cannot be scored is replaced whole."""
    responses = config.ppo.responses_per_prompt
    if config.overlap.max_staleness or config.ppo.dynamic_sampling:
        return responses  # one prompt's, so that which prompts are left out, and when, cuts nothing anew
    return -(-config.overlap.score_group // responses) * responses


@contextmanager
def rare_garbage_collection() -> Iterator[None]:
    """Every sample in flight is tasks and futures that a collection looks at in vain: with thousands of engines that is most
    of the controller's work at Python's own threshold. So it is done once a step (`_report`), when a batch has just gone, and
    what was there before the loop, which is all that was imported, is not looked at again.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def prefixed(role: str, numbers: dict[str, float]) -> dict[str, float]:
    return {f"{role}/{key}": number for key, number in numbers.items()}
