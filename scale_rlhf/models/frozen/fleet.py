"""The handle to the replicas of a frozen model that the controller holds."""

import asyncio
from collections.abc import Sequence
from typing import Any

from scale_rlhf.cluster.device import environment
from scale_rlhf.config.schema import FrozenRole, LimitsSection
from scale_rlhf.experience.sample import Sample
from scale_rlhf.models.frozen.work import Work
from scale_rlhf.orchestration.deadlines import all_within, within
from scale_rlhf.telemetry.spans import Span

WAITING_CALLS = 10_000  # that Ray lets into an actor at once; its own queue is bounded in samples


class FrozenFleet:
    """`section.replicas` copies of a model, each a group of `section.workers` processes.

    role: "reference" or "reward", for messages. Used from one asyncio loop.
    """

    def __init__(self, role: str, work: Work, section: FrozenRole, limits: LimitsSection):
        self.role, self.work, self.section, self.limits = role, work, section, limits
        self._replicas: list[list] = []  # actors, by replica and rank
        self._load: list[int] = []  # tokens under way, by replica
        self.parameters: list[list[int]] = []  # held by every process, by replica and rank

    async def start(self, options: Sequence[Sequence[dict]] | None = None) -> None:
        """Start every process and load the model in it; all at once.

        options: keyword arguments of Ray's `.options(…)`, [replica][worker]; None: CPUs, GPUs and threads of the section.
        Raises ConfigError where the model cannot be loaded, RunError when the deadline passes.
        """
        options = options or default_options(self.section)
        self._replicas = [self._actors(group) for group in options]
        self._load = [0] * len(self._replicas)
        self.parameters = list(await asyncio.gather(*(self._ready(place) for place in range(len(self._replicas)))))

    async def compute(self, samples: Sequence[Sample], *, fixed: bool, group: int, what: str) -> list[Any]:
        """One result a sample, in order, within limits.score_seconds.

        fixed: cut by `packing.cut` and computed by itself, on replica `group` modulo replicas: the result depends on
        nothing else. Otherwise the least loaded replica takes it and may mix it with others.
        """
        place = group % len(self._replicas) if fixed else self._load.index(min(self._load))
        tokens = sum(sample.tokens for sample in samples)
        self._load[place] += tokens
        try:
            call = self._replicas[place][0].compute.remote(list(samples), fixed)
            return await within(call, self.limits.score_seconds, self._name(place), f"{what} of {len(samples)} samples")
        finally:
            self._load[place] -= tokens

    async def metrics(self) -> dict[str, float]:
        """Of all replicas since the last call; latencies and busy time in seconds, batch_fill a share of the token budget."""
        calls = [replica[0].metrics.remote() for replica in self._replicas]
        return summary(await all_within(calls, self.limits.score_seconds, self.role, "metrics"), self.section.tokens_per_batch)

    async def spans(self) -> dict[str, list[Span]]:
        """What each replica did since the last call, by lane of the timeline."""
        calls = [replica[0].take_spans.remote() for replica in self._replicas]
        each = await all_within(calls, self.limits.score_seconds, self.role, "metrics")
        return {f"{self.role}/{place}": spans for place, spans in enumerate(each)}

    def close(self) -> None:
        """End every process, at once; safe to call twice."""
        import ray

        for actor in (actor for replica in self._replicas for actor in replica):
            ray.kill(actor)
        self._replicas = []

    def _actors(self, group: Sequence[dict]) -> list:
        import ray

        from scale_rlhf.models.frozen.server import FrozenServer
        from scale_rlhf.models.frozen.worker import FrozenWorker

        section, world = self.section, len(group)
        common = (self.work, section.dtype)
        rank_options = [{"max_concurrency": WAITING_CALLS, **options} for options in group]
        server = ray.remote(FrozenServer).options(**rank_options[0]).remote(
            *common, world, section.tokens_per_batch, section.max_wait_ms / 1000, self.limits.score_seconds,
        )
        worker = ray.remote(FrozenWorker)
        workers = [worker.options(**rank_options[rank]).remote(*common, rank, world) for rank in range(1, world)]
        return [server, *workers]

    async def _ready(self, place: int) -> list[int]:
        server, *others = replica = self._replicas[place]
        seconds, who = self.limits.start_seconds, self._name(place)
        address, port = await within(server.rendezvous.remote(), seconds, who, "start")
        loads = [actor.load.remote(address, port) for actor in replica]
        parameters = await all_within(loads, seconds, who, f"loading {self.work.path}")
        await within(server.serve.remote(others), seconds, who, "start")
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


def summary(counts: Sequence[dict], budget: int) -> dict[str, float]:
    """Metrics of a role from the counts of its replicas. budget: tokens of a full batch."""
    total = {key: sum(count[key] for count in counts) for key in counts[0]}
    return {
        "samples": total["samples"],
        "tokens": total["tokens"],
        "busy_seconds": total["busy"],
        "latency_mean_seconds": total["latency"] / max(total["requests"], 1),
        "latency_max_seconds": max(count["latency_max"] for count in counts),
        "batch_fill": total["tokens"] / max(total["batches"] * budget, 1),
        "queue_max_samples": max(count["queue_max"] for count in counts),
    }
