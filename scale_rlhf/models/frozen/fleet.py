"""The handle to the replicas of a frozen model that the controller holds."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from scale_rlhf.cluster import names
from scale_rlhf.cluster.actors import Process, end, identify
from scale_rlhf.cluster.device import environment
from scale_rlhf.cluster.placement import until_granted
from scale_rlhf.config.roles import FrozenRole
from scale_rlhf.config.schema import LimitsSection
from scale_rlhf.experience.sample import Sample
from scale_rlhf.models.frozen.work import Work
from scale_rlhf.orchestration.deadlines import RoleFailed, all_within, within
from scale_rlhf.orchestration.health import Budget, Health
from scale_rlhf.telemetry.spans import Span

WAITING_CALLS = 10_000  # that Ray lets into an actor at once; its own queue is bounded in samples


class FrozenFleet:
    """`section.replicas` copies of a model, each a group of `section.workers` processes.

    role: "reference" or "reward", for messages. Used from one asyncio loop. A replica that dies, or whose answer is late, is
    replaced, and what it was asked is asked again: its results depend on nothing else.
    """

    def __init__(self, role: str, work: Work, section: FrozenRole, limits: LimitsSection, budget: Budget | None = None,
                 namespace: str | None = None):
        """budget: of restarts; None: no replica is replaced. namespace: in which Ray finds processes by their names."""
        self.namespace = namespace
        self.role, self.work, self.section, self.limits, self.budget = role, work, section, limits, budget
        self._replicas: list[list] = []  # actors, by replica and rank
        self._processes: list[list[Process]] = []
        self._replacing: list[asyncio.Lock] = []
        self._load: list[int] = []  # tokens under way, by replica
        self.parameters: list[list[int]] = []  # held by every process, by replica and rank

    async def start(self, options: Sequence[Sequence[dict]] | None = None) -> None:
        """Start every process and load the model in it; all at once.

        options: keyword arguments of Ray's `.options(…)`, [replica][worker]; None: CPUs, GPUs and threads of the section.
        Raises ConfigError where the model cannot be loaded, RunError when the deadline passes.
        """
        self._options = options or default_options(self.section)
        self._replicas = [self._actors(place) for place in range(len(self._options))]
        self._load, self._processes = [0] * len(self._replicas), [[] for _ in self._replicas]
        self._replacing = [asyncio.Lock() for _ in self._replicas]
        called = [names.replica(self.role, place) for place in range(len(self._replicas))]
        self.health = Health(called, time.monotonic, stale=False)
        self.parameters = list(await asyncio.gather(*(self._ready(place) for place in range(len(self._replicas)))))

    async def compute(self, samples: Sequence[Sample], *, fixed: bool, group: int, what: str) -> list[Any]:
        """One result a sample, in order, within limits.score_seconds.

        fixed: cut by `packing.cut` and computed by itself, on replica `group` modulo replicas: the result depends on
        nothing else. Otherwise the least loaded replica takes it and may mix it with others.
        """
        while True:
            place = group % len(self._replicas) if fixed else self._least_loaded()
            replica, tokens = self._replicas[place], sum(sample.tokens for sample in samples)
            self._load[place] += tokens
            try:
                call = replica[0].compute.remote(list(samples), fixed)
                return await within(call, self.limits.score_seconds, self._name(place), f"{what} of {len(samples)} samples")
            except RoleFailed as failure:
                await self._replace(place, replica, failure)
            finally:
                self._load[place] -= tokens

    def _least_loaded(self) -> int:
        serving = self.health.serving or range(len(self._replicas))
        return min(serving, key=self._load.__getitem__)

    async def _replace(self, place: int, replica: list, failure: RoleFailed) -> None:
        """New processes in the place of `replica`, unless another call has seen to it. Raises past the budget."""
        if self.budget is None:
            raise failure
        async with self._replacing[place]:
            while self._replicas[place] is replica:
                self.health.tell(place, "died")
                failure = failure.seen(self._processes[place])
                await asyncio.sleep(self.budget.spend(self._name(place), str(failure)))
                self.health.tell(place, "restart")
                end(replica, self._processes[place])
                try:
                    await until_granted(self._options[place], self.limits.start_seconds, self._name(place))
                    self._replicas[place] = replica = self._actors(place)
                    await self._ready(place)
                except RoleFailed as again:
                    failure = again
                    continue
                self.health.tell(place, "started")
                return

    async def metrics(self) -> dict[str, float]:
        """Of all replicas since the last call; latencies and busy time in seconds, batch_fill a share of the token budget."""
        return summary(list((await self._each("metrics")).values()), self.section.tokens_per_batch)

    async def spans(self) -> dict[str, list[Span]]:
        """What each replica did since the last call, by lane of the timeline."""
        return {names.replica(self.role, place): spans for place, spans in (await self._each("take_spans")).items()}

    def close(self) -> None:
        """End every process, at once; safe to call twice."""
        replicas, self._replicas = self._replicas, []
        end([actor for replica in replicas for actor in replica], [one for each in self._processes for one in each])

    async def _each(self, method: str) -> dict[int, Any]:
        """Of every replica that serves, by place. One that fails is replaced when it is asked for work."""
        serving = self.health.serving
        seconds = self.limits.score_seconds
        calls = (within(getattr(self._replicas[place][0], method).remote(), seconds, self._name(place), "metrics")
                 for place in serving)
        found = await asyncio.gather(*calls, return_exceptions=self.budget is not None)
        return {place: one for place, one in zip(serving, found, strict=True) if not isinstance(one, BaseException)}

    def _actors(self, place: int) -> list:
        from scale_rlhf.models.frozen.server import FrozenServer
        from scale_rlhf.models.frozen.worker import FrozenWorker

        section, group = self.section, self._options[place]
        world = len(group)

        def start(kind: type, rank: int, *arguments: Any) -> Any:
            return names.start(kind, names.replica(self.role, place, rank, world), self.work, section.dtype, *arguments,
                               options={"max_concurrency": WAITING_CALLS, **group[rank]}, namespace=self.namespace)

        server = start(FrozenServer, 0, world, section.tokens_per_batch, section.max_wait_ms / 1000, self.limits.score_seconds)
        return [server, *(start(FrozenWorker, rank, rank, world) for rank in range(1, world))]

    async def _ready(self, place: int) -> list[int]:
        server, *others = replica = self._replicas[place]
        seconds, who = self.limits.start_seconds, self._name(place)
        address, port = await within(server.rendezvous.remote(), seconds, who, "start")
        loads = [actor.load.remote(address, port) for actor in replica]
        parameters = await all_within(loads, seconds, who, f"loading {self.work.path}")
        await within(server.serve.remote(others), seconds, who, "start")
        self._processes[place] = await identify(replica)
        return parameters

    def _name(self, place: int) -> str:
        return f"{self.role} replica {place}"


def default_options(section: FrozenRole) -> list[list[dict]]:
    """Ray options of every process of a role, [replica][worker], where nobody has placed them."""
    process = {
        "num_cpus": section.cpus, "num_gpus": section.gpus,
        "runtime_env": {"env_vars": environment(section.threads, section.gpus)},
    }
    return [[process] * section.workers for _ in range(section.replicas)]


_COUNTED = ("samples", "tokens", "busy", "latency", "requests", "batches")


def summary(counts: Sequence[dict], budget: int) -> dict[str, float]:
    """Metrics of a role from the counts of its replicas. budget: tokens of a full batch."""
    total = {key: sum(count[key] for count in counts) for key in counts[0]} if counts else dict.fromkeys(_COUNTED, 0)
    return {
        "samples": total["samples"],
        "tokens": total["tokens"],
        "busy_seconds": total["busy"],
        "latency_mean_seconds": total["latency"] / max(total["requests"], 1),
        "latency_max_seconds": max((count["latency_max"] for count in counts), default=0.0),
        "batch_fill": total["tokens"] / max(total["batches"] * budget, 1),
        "queue_max_samples": max((count["queue_max"] for count in counts), default=0),
    }
