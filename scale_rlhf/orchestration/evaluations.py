"""Evaluation while PPO trains: held-out prompts, answered on a schedule by the engines that answer the others.

    learner  │ waits for batch v  │ update v → v + 1      │ …
    engines  │ samples, version v │ held-out prompts of v │ load v + 1, samples

They are no samples: none is admitted, scored with others, in a batch or in a ledger, and their seeds are their own. At
max_staleness 0 they are asked when the batch is whole, and the next version waits for their answers: engines decode samples or
held-out prompts, never both, so that a run trains the very same samples with evaluation and without. Above 0 they are decoded
among samples, the learner waits for nothing, and versions may arrive meanwhile: `evaluate/version` says which answered.

Reward and judge look at the answers later, beside the run. What fails or is late is given up with a line, and the run goes on.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import UserError
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.orchestration.deadlines import at_once
from scale_rlhf.orchestration.roles import Roles

GROUP = 64  # answers that the reward scores in one call; one call after the other, so that samples wait for one at most
JUDGED = ("score", "helpful", "honest", "harmless", "right_form")  # what a judge may say; None where it does not know

Verdicts = list[Mapping[str, float | None]]
Judge = Callable[[Sequence[Sample]], Awaitable[Verdicts]]


@dataclass(frozen=True)
class Evaluation:
    """Of one version. verdicts: one an answer; None without a judge. seconds: until it was asked, answered and judged."""

    version: int
    answers: Sequence[Sample]
    rewards: Sequence[float]
    verdicts: Verdicts | None
    seconds: float

    def metrics(self) -> dict[str, float]:
        """evaluate/…: means over the answers, and the standard errors of the two scores."""
        lengths = [len(one.response_ids) for one in self.answers]
        versions = np.concatenate([one.versions for one in self.answers])
        numbers = {
            "evaluate/answers": float(len(self.answers)), "evaluate/seconds": self.seconds,
            "evaluate/version": float(versions.mean()) if len(versions) else float(self.version),
            "evaluate/tokens": float(np.mean(lengths)), "evaluate/ended": float(np.mean([one.ended for one in self.answers])),
            "evaluate/reward": float(np.mean(self.rewards)), "evaluate/reward_error": standard_error(self.rewards),
        }
        for name in JUDGED:
            if known := [one[name] for one in self.verdicts or () if one.get(name) is not None]:
                numbers[f"evaluate/{name}"] = float(np.mean(known))
                if name == "score":
                    numbers["evaluate/score_error"] = standard_error(known)
        return numbers


class Evaluations:
    """Used from one asyncio loop. Without prompts, or a schedule, none is due."""

    def __init__(self, config: RunConfig, roles: Roles, prompts: Sequence[Prompt] = (), judge: Judge | None = None,
                 done: Callable[[Evaluation], None] = lambda evaluation: None, tell: Callable[[str], None] = print,
                 known: Collection[int] = ()):
        """prompts: with indices that no sample has. done: told of each evaluation. tell: of what was given up. known: versions
        that were evaluated before the run was resumed.
        """
        self.config, self.roles, self.prompts, self.judge = config, roles, prompts, judge
        self.done, self.tell, self.known = done, tell, frozenset(known)
        self._answered = asyncio.Event()  # no held-out prompt is being decoded
        self._answered.set()
        self._under_way: set[asyncio.Task] = set()

    @property
    def answering(self) -> bool:
        return not self._answered.is_set()

    def begin(self, version: int, tasks: asyncio.TaskGroup, load: asyncio.Task | None = None) -> None:
        """Ask the held-out prompts where this version is due. load: what brings it to the engines, where it is under way."""
        every = self.config.evaluation.every
        if not self.prompts or every is None or version % every or version in self.known:
            return
        if self.answering:
            self.tell(f"evaluation of version {version} is left out, as engines still answer the one before; raise "
                      "evaluation.every, or lower evaluation.during_prompts")
            return
        self._answered.clear()
        task = tasks.create_task(self._evaluate(version, load))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def answered(self) -> None:
        """Wait until no held-out prompt is being decoded: at most limits.evaluate_seconds."""
        await self._answered.wait()

    async def finish(self) -> None:
        """Wait for all that is under way, judging included: at most limits.evaluate_seconds."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def _evaluate(self, version: int, load: asyncio.Task | None) -> None:
        limit, began = self.config.limits.evaluate_seconds, time.monotonic()
        try:
            async with asyncio.timeout(limit):
                if load is not None:
                    await asyncio.wait([load])  # not `await load`: that would end it where this is given up
                temperature = self.config.evaluation.temperature
                answers = await at_once(self.roles.rollout.generate(one, temperature=temperature) for one in self.prompts)
                self._answered.set()
                rewards, verdicts = await at_once([self._rewards(answers), self._verdicts(answers)])
        except TimeoutError:
            self._give_up(version, f"it did not end within {limit:g} s (limits.evaluate_seconds)")
        except UserError as failure:
            self._give_up(version, str(failure))
        else:
            self.done(Evaluation(version, answers, rewards, verdicts, time.monotonic() - began))
        finally:
            self._answered.set()

    async def _rewards(self, answers: Sequence[Sample]) -> list[float]:
        rewards: list[float] = []
        for group, start in enumerate(range(0, len(answers), GROUP)):
            rewards += await self.roles.reward.score(answers[start : start + GROUP], fixed=True, group=group)
        return rewards

    async def _verdicts(self, answers: Sequence[Sample]) -> Verdicts | None:
        return await self.judge(answers) if self.judge else None

    def _give_up(self, version: int, why: str) -> None:
        self.tell(f"evaluation of version {version} is given up, and the run goes on: {why}")


def standard_error(values: Sequence[float]) -> float:
    """Of the mean; 0 for a single value."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
