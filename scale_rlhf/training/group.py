"""A trained role as the loop sees it: a group of ranks that are called together, each wait with a deadline."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from scale_rlhf.cluster import names
from scale_rlhf.cluster.actors import Process, end, identify
from scale_rlhf.cluster.device import environment
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.experience.sample import Sample
from scale_rlhf.orchestration.checksums import Described
from scale_rlhf.orchestration.deadlines import RoleFailed, all_within
from scale_rlhf.orchestration.health import Health
from scale_rlhf.telemetry.spans import Span
from scale_rlhf.training.batch import TrainingBatch
from scale_rlhf.training.worker import Numbers, TrainingWorker
from scale_rlhf.weights.manifest import merge

CHECKPOINT_POLL = 0.1  # seconds between questions whether a checkpoint is written

class TrainingGroup:
    """Handle on the ranks of one role. Methods raise RunError naming the role, the rank, what and for how long."""

    def __init__(self, config: RunConfig, worker: type[TrainingWorker], path: str, options: Sequence[dict] | None = None,
                 namespace: str | None = None):
        """worker: PolicyWorker or ValueWorker. path: the model to start from. options: Ray's, of each rank; None: those that
        follow from the section, wherever Ray finds room. namespace: in which Ray finds ranks by name.
        """
        self.config, self.worker, self.path, self.options, self.namespace = config, worker, path, options, namespace
        self.role = worker.role
        self.section = getattr(config, self.role)
        self.workers: list = []
        self.processes: list[Process] = []
        self.turn = asyncio.Lock()
        # A group lives and dies as one: whoever fails first, all start again.
        self.health = Health([names.rank(self.role, rank) for rank in range(self.section.workers)], time.monotonic, stale=False)

    async def start(self) -> Numbers:
        """Make the actors and have them load. Returns rank 0's seconds: join, load, deepspeed."""
        self.workers = [self._actor(rank) for rank in range(self.section.workers)]
        seconds = self.config.limits.start_seconds
        (place,) = await all_within([self.workers[0].meeting_place.remote()], seconds, self.role, "starting")
        numbers = await self.call("setup", *place, seconds=seconds, what="loading the model")
        self.processes = await identify(self.workers)
        return numbers[0]

    async def call(self, method: str, *arguments: Any, seconds: float, what: str) -> list:
        """The method on every rank at once, with the same arguments (large ones are put into the object store once).

        One call after another, so that all ranks make their collectives in one order; `seconds` count from its turn.
        """
        async with self.turn:
            return await self._call(method, *arguments, seconds=seconds, what=what)

    async def _call(self, method: str, *arguments: Any, seconds: float, what: str) -> list:
        references = [getattr(worker, method).remote(*arguments) for worker in self.workers]
        try:
            return await all_within(references, seconds, self.role, what)
        except RoleFailed as failure:
            for rank in range(len(self.health.names)):
                self.health.tell(rank, "died")
            raise failure.seen(self.processes) from failure

    async def spans(self) -> dict[str, list[Span]]:
        """What each rank did since the last call, by lane of the timeline. Waits for what they do now."""
        each = await self.call("take_spans", seconds=self.config.limits.update_seconds, what="metrics")
        return {names.rank(self.role, rank): spans for rank, spans in enumerate(each)}

    async def save(self, folder: str) -> None:
        """Write the model as a Hugging Face folder, on rank 0's machine."""
        await self.call("save", str(folder), seconds=self.config.limits.publish_seconds, what=f"saving to {folder}")

    async def checkpoint(self, folder: str) -> None:
        """Every rank copies its state of training, and writes it into `folder` while training goes on."""
        await self.call("checkpoint", folder, seconds=self.config.limits.publish_seconds, what="copying its state")

    async def checkpointed(self, seconds: float) -> Described:
        """Size and checksum of what every rank wrote, by name, once all have. Raises RunError past `seconds`."""
        waiting, until = list(self.workers), time.monotonic() + seconds
        described: Described = {}
        while waiting:
            # A rank answers between its other calls: this one never keeps an update waiting.
            left = max(until - time.monotonic(), 0.0) + self.config.limits.update_seconds
            found = await all_within([one.checkpointed.remote() for one in waiting], left, self.role, "a checkpoint")
            described |= {name: file for one in found if one for name, file in one.items()}
            waiting = [worker for worker, one in zip(waiting, found, strict=True) if one is None]
            if waiting and time.monotonic() > until:
                raise RunError(f"{self.role}: {len(waiting)} ranks did not write their checkpoint within {seconds:g} s "
                               "(limits.checkpoint_seconds). Is the disk slow, or full?")
            await asyncio.sleep(CHECKPOINT_POLL if waiting else 0)
        return described

    async def restore(self, folder: str) -> None:
        """Go on from the state of training in `folder`."""
        await self.call("restore", folder, seconds=self.config.limits.start_seconds, what=f"restoring {folder}")

    async def close(self) -> None:
        """Leave the process group and end the actors, whatever state they are in."""
        try:
            await self._call("close", seconds=10.0, what="closing")  # now: what is under way may be stuck
        except Exception:  # noqa: BLE001 - a rank that is dead or stuck is ended all the same
            pass
        end(self.workers, self.processes)
        self.workers, self.processes = [], []

    def _actor(self, rank: int):
        options = self.options[rank] if self.options else {
            "num_cpus": self.section.cpus, "num_gpus": self.section.gpus, "max_restarts": 0, "max_task_retries": 0,
            "runtime_env": {"env_vars": environment(self.section.threads, self.section.gpus)},
        }
        return names.start(self.worker, names.rank(self.role, rank), self.config, self.path, rank, self.section.workers,
                           options=options, namespace=self.namespace)


class PolicyGroup(TrainingGroup):
    """The policy's ranks."""

    def __init__(self, config: RunConfig, path: str, options: Sequence[dict] | None = None, namespace: str | None = None):
        from scale_rlhf.training.policy import PolicyWorker

        super().__init__(config, PolicyWorker, path, options, namespace)

    async def update(self, batch: TrainingBatch, advantages: list[np.ndarray], version: int) -> Numbers:
        """Make version + 1 from a batch. Returns the metrics of `PolicyWorker.update`."""
        arguments = await asyncio.to_thread(_put, batch, advantages)
        what = f"update of version {version}"
        return (await self.call("update", *arguments, version, seconds=self.config.limits.update_seconds, what=what))[0]

    async def logprobs(self, samples: Sequence[Sample], temperature: float | None = None) -> list[np.ndarray]:
        """The trainer's log-probabilities of the responses, float32 [response tokens] for each sample."""
        seconds = self.config.limits.score_seconds
        return (await self.call("logprobs", list(samples), temperature, seconds=seconds, what="log-probabilities"))[0]

    async def reference_logprobs(self, samples: Sequence[Sample]) -> tuple[list[np.ndarray], float]:
        """The same without the adapter, at the rollout's temperature, and the seconds that rank 0 worked at it."""
        seconds = self.config.limits.score_seconds
        what = f"the reference's log-probabilities of {len(samples)} samples"
        return (await self.call("reference_logprobs", list(samples), seconds=seconds, what=what))[0]

    async def places(self) -> list[str]:
        """Ray's id of every rank's node."""
        return await self.call("place", seconds=self.config.limits.start_seconds, what="its node")

    async def open_transport(self, transport: str, tag: str, engines: list, workers: int, *, loopback: bool = True) -> None:
        """Make every rank ready to publish to those engine actors of `workers` workers each. loopback: all are on one host."""
        address, port = (await self.call("node_address", seconds=self.config.limits.start_seconds, what="starting"))[0]
        here = "127.0.0.1" if loopback else None
        await self.call("open_transport", transport, tag, (engines, workers), (here or address, port), here,
                        seconds=self.config.limits.start_seconds, what="opening the weight transport")

    async def publish(self, version: int) -> dict | None:
        """Hand the weights over as `version`. Returns what engines load, or None where they have it already."""
        what = f"publishing version {version}"
        parts = await self.call("publish", version, seconds=self.config.limits.publish_seconds, what=what)
        return None if parts[0] is None else merge(parts).update_info()


class ValueGroup(TrainingGroup):
    """The value model's ranks."""

    def __init__(self, config: RunConfig, path: str, options: Sequence[dict] | None = None, namespace: str | None = None):
        from scale_rlhf.training.value import ValueWorker

        super().__init__(config, ValueWorker, path, options, namespace)

    async def prepare(self, batch: TrainingBatch) -> tuple[list[np.ndarray], Numbers]:
        """Advantages, float32 [response tokens] for each sample, and metrics; see `ValueWorker.prepare`."""
        (batch,) = await asyncio.to_thread(_put, batch)
        return (await self.call("prepare", batch, seconds=self.config.limits.update_seconds, what="advantages"))[0]

    async def update(self, batch: TrainingBatch, version: int) -> Numbers:
        """One update on the batch of the last `prepare`. Returns the metrics of `ValueWorker.update`."""
        (batch,) = await asyncio.to_thread(_put, batch)
        what = f"update of version {version}"
        return (await self.call("update", batch, version, seconds=self.config.limits.update_seconds, what=what))[0]


def _put(*values: Any) -> list:
    import ray

    return [ray.put(value) for value in values]
