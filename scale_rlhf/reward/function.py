"""A reward from a Python function that the user names by its import path.

    def f(samples: list[dict], **reward.arguments) -> list[float]

Each sample is {"prompt", "response": text, "prompt_ids", "response_ids": token ids, "ended": bool, "row": the row of the
data file}. It runs in processes of its own, `reward.replicas` of them, one call at a time in each. A call that raises, or
returns nonsense, is tried again; so is one that is late or whose process died, in a new process: the old one may hang.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from scale_rlhf.cluster import names
from scale_rlhf.cluster.device import environment
from scale_rlhf.cluster.placement import until_granted
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError, RunError
from scale_rlhf.experience.sample import Sample, step_of
from scale_rlhf.orchestration.deadlines import RoleFailed, within
from scale_rlhf.orchestration.health import Budget, Health
from scale_rlhf.reward.calls import Calls
from scale_rlhf.reward.function_worker import FunctionWorker
from scale_rlhf.reward.interface import ScoringFailed
from scale_rlhf.reward.retries import with_retries
from scale_rlhf.reward.text import Reader
from scale_rlhf.telemetry.spans import Span

_STARTS = 3  # tries to start a process in the place of another


class FunctionReward:
    """Replicas of a function. Each try of a call is late after reward.timeout_seconds."""

    def __init__(self, config: RunConfig, path: str, reader: Reader, budget: Budget | None = None, namespace: str | None = None):
        """budget: told of processes that are replaced, which costs it nothing. namespace: in which Ray finds them by name."""
        self.budget, self.namespace = budget, namespace
        self.section, self.limits, self.path, self.reader = config.reward, config.limits, path, reader
        self._actors: list = []
        self._options: list[dict] = []  # of Ray's `.options(…)`, by replica
        self._replacing = asyncio.Lock()
        self._load: list[int] = []  # samples under way, by replica
        self._calls = Calls()

    async def start(self, options: Sequence[Sequence[dict]] | None = None, probe: Sequence[Sample] = ()) -> None:
        section = self.section
        default = {
            "num_cpus": section.cpus, "num_gpus": section.gpus,
            "runtime_env": {"env_vars": environment(section.threads, section.gpus)},
        }
        self._options = [replica[0] for replica in options] if options else [default] * section.replicas
        self._load = [0] * len(self._options)
        self.health = Health([names.replica("reward", place) for place in range(len(self._options))], time.monotonic, stale=False)
        self._actors = [self._made(place) for place in range(len(self._options))]
        await asyncio.gather(*(self._loaded(place) for place in range(len(self._actors))))
        if probe:
            await self.score(probe, fixed=True, group=0)
            await self.metrics()  # the probe is not part of the run

    async def score(self, samples: Sequence[Sample], *, fixed: bool, group: int) -> list[float]:
        documents = self.reader.documents(samples)
        step = step_of(samples)
        with self._calls.one(len(samples)):
            return await with_retries(lambda: self._attempt(documents, fixed, group, step), self.section, self._calls)

    async def _attempt(self, documents: list[dict], fixed: bool, group: int, step: int) -> list[float]:
        """Scores from one try. Raises ScoringFailed where another may do better."""
        place = group % len(self._actors) if fixed else self._load.index(min(self._load))
        actor, what = self._actors[place], f"scoring of {len(documents)} samples"
        self._load[place] += len(documents)
        try:
            return await within(actor.score.remote(documents, step), self.section.timeout_seconds, self._who(place), what)
        except (ConfigError, ScoringFailed):
            raise
        except RunError as error:  # it is late, or its process died
            await self._replace(place, actor, str(error))
            raise ScoringFailed(str(error)) from error
        finally:
            self._load[place] -= len(documents)

    def _made(self, place: int) -> Any:
        return names.start(FunctionWorker, names.replica("reward", place), self.path, self.section.arguments,
                           options=self._options[place],
                           namespace=self.namespace)

    async def _loaded(self, place: int) -> None:
        await within(self._actors[place].load.remote(), self.limits.start_seconds, self._who(place), "start")

    async def _replace(self, place: int, actor: Any, why: str) -> None:
        """A new process in the place of `actor`, unless another call has seen to it already."""
        import ray

        async with self._replacing:
            if not self._actors or self._actors[place] is not actor:
                return
            if self.budget is not None:
                self.budget.note(f"reward replica {place}", why)
            for news in ("died", "restart"):
                self.health.tell(place, news)
            ray.kill(actor)
            for left in reversed(range(_STARTS)):  # where its node dies, the next may begin on it before anybody knows
                await until_granted([self._options[place]], self.limits.start_seconds, self._who(place))
                self._actors[place] = self._made(place)
                try:
                    await self._loaded(place)
                    break
                except RoleFailed:
                    if not left:
                        raise
            self.health.tell(place, "started")

    async def metrics(self) -> dict[str, float]:
        return self._calls.take()

    async def spans(self) -> dict[str, list[Span]]:
        """The calls since the last call, by lane of the timeline."""
        return {"reward/calls": self._calls.take_spans()}

    def close(self) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _who(self, place: int) -> str:
        return f"reward.function {self.path}, replica {place}"
