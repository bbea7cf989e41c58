"""A reward from a Python function that the user names by its import path.

    def f(samples: list[dict]) -> list[float]

Each sample is {"prompt", "response": text, "prompt_ids", "response_ids": token ids, "ended": bool, "row": the row of the
data file}. It runs in processes of its own, `reward.replicas` of them, one call at a time in each.
"""

import asyncio
from collections.abc import Sequence

from scale_rlhf.cluster.device import environment
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.experience.sample import Sample
from scale_rlhf.orchestration.deadlines import within
from scale_rlhf.reward.calls import Calls
from scale_rlhf.reward.function_worker import FunctionWorker
from scale_rlhf.reward.text import Reader
from scale_rlhf.telemetry.spans import Span


class FunctionReward:
    """Replicas of a function. A call is late after reward.timeout_seconds."""

    def __init__(self, config: RunConfig, path: str, reader: Reader):
        self.section, self.limits, self.path, self.reader = config.reward, config.limits, path, reader
        self._actors: list = []
        self._load: list[int] = []  # samples under way, by replica
        self._calls = Calls()

    async def start(self, options: Sequence[Sequence[dict]] | None = None, probe: Sequence[Sample] = ()) -> None:
        import ray

        section = self.section
        default = {
            "num_cpus": section.cpus, "num_gpus": section.gpus,
            "runtime_env": {"env_vars": environment(section.threads, section.gpus)},
        }
        chosen = [replica[0] for replica in options] if options else [default] * section.replicas
        self._actors = [ray.remote(FunctionWorker).options(**each).remote(self.path) for each in chosen]
        self._load = [0] * len(self._actors)
        seconds = self.limits.start_seconds
        loads = [within(actor.load.remote(), seconds, self._who(place), "start") for place, actor in enumerate(self._actors)]
        await asyncio.gather(*loads)
        if probe:
            await self.score(probe, fixed=True, group=0)
            await self.metrics()  # the probe is not part of the run

    async def score(self, samples: Sequence[Sample], *, fixed: bool, group: int) -> list[float]:
        place = group % len(self._actors) if fixed else self._load.index(min(self._load))
        self._load[place] += len(samples)
        try:
            with self._calls.one(len(samples)):
                call = self._actors[place].score.remote(self.reader.documents(samples))
                return await within(call, self.section.timeout_seconds, self._who(place), f"scoring of {len(samples)} samples")
        finally:
            self._load[place] -= len(samples)

    async def metrics(self) -> dict[str, float]:
        return self._calls.take()

    async def spans(self) -> dict[str, list[Span]]:
        """The calls since the last call, by lane of the timeline."""
        return {"reward/calls": self._calls.spans.take()}

    def close(self) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _who(self, place: int) -> str:
        return f"reward.function {self.path}, replica {place}"
