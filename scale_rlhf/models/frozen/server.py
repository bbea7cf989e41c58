"""Rank 0 of a replica: takes requests from many callers, batches them, and has every rank make its forward."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from scale_rlhf.experience.sample import Sample
from scale_rlhf.models.frozen.batcher import Batch, Batcher, Item
from scale_rlhf.models.frozen.work import Work
from scale_rlhf.models.frozen.worker import FrozenWorker
from scale_rlhf.orchestration.deadlines import within
from scale_rlhf.telemetry.spans import Span, Spans


@dataclass
class Counts:
    """What happened since the last `metrics`; sums, so that replicas add up."""

    samples: int = 0
    tokens: int = 0
    batches: int = 0
    requests: int = 0
    latency: float = 0.0  # seconds, summed over requests, from arrival to result
    latency_max: float = 0.0
    busy: float = 0.0  # seconds in which a forward ran
    queue_max: int = 0  # most samples that waited at once


@dataclass
class Request:
    """A request that is not answered yet."""

    items: list[Any]
    answer: asyncio.Future
    arrived: float
    results: dict[int, Any] = field(default_factory=dict)  # by place


class FrozenServer(FrozenWorker):
    """A Ray actor. A request that finds the queue full waits outside it, in order of arrival.

    With several ranks a round is one batch for each rank while there are any, and a filler for the others:
    ZeRO-3 ranks must make the same number of forwards.
    """

    def __init__(self, work: Work, dtype: str, world: int, tokens_per_batch: int, max_wait: float, deadline: float):
        """tokens_per_batch: of one forward. max_wait: seconds for a batch to fill. deadline: seconds, of a forward elsewhere."""
        super().__init__(work, dtype, 0, world)
        self.deadline = deadline
        self.batcher = Batcher(tokens_per_batch, max_wait, time.monotonic)
        self.counts, self.spans = Counts(), Spans()
        self.peers: list = []
        self._requests: dict[int, Request] = {}
        self._door, self._news, self._room = asyncio.Lock(), asyncio.Event(), asyncio.Event()
        self._broken: BaseException | None = None
        self._loop: asyncio.Task | None = None

    async def serve(self, peers: list) -> None:
        """Begin; after every rank has loaded. peers: the actors of ranks 1 and up."""
        self.peers = peers
        self._loop = asyncio.create_task(self._rounds())

    async def compute(self, samples: Sequence[Sample], fixed: bool) -> list[Any]:
        """One result a sample, in order. fixed: results do not depend on what else is in flight."""
        arrived = time.monotonic()
        items = self.work.prepare(samples)
        if not items:
            return []
        async with self._door:
            while not self.batcher.has_room(len(items)) and not self._broken:
                self._room.clear()
                await self._room.wait()
            if self._broken:
                raise self._broken
            request = Request(items, asyncio.get_running_loop().create_future(), arrived)
            self._requests[self.batcher.add([item.tokens for item in items], fixed=fixed)] = request
        self.counts.queue_max = max(self.counts.queue_max, self.batcher.waiting)
        self._news.set()
        return await request.answer

    async def metrics(self) -> dict[str, float]:
        """Counts since the last call."""
        counts, self.counts = self.counts, Counts(queue_max=self.batcher.waiting)
        return asdict(counts)

    async def take_spans(self) -> list[Span]:
        """The forwards since the last call."""
        return self.spans.take()

    async def _rounds(self) -> None:
        while not self._broken:
            batches = [batch for _ in range(self.world) if (batch := self.batcher.take())]
            if batches:
                self._room.set()
                await self._round(batches)
            else:
                await self._sleep(self.batcher.wait())

    async def _sleep(self, seconds: float | None) -> None:
        """Until something arrives, or for so long."""
        self._news.clear()
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            pass

    async def _round(self, batches: list[Batch]) -> None:
        """One forward on every rank. A failure is the answer to the requests in it."""
        began = time.monotonic()
        shares = [self._items(batch) for batch in batches] + [None] * (self.world - len(batches))
        calls = [
            within(peer.forward.remote(share), self.deadline, f"rank {rank} of a replica of {self.world}", "a forward")
            for rank, (peer, share) in enumerate(zip(self.peers, shares[1:], strict=True), start=1)
        ]
        try:
            with self.spans.span("forward", samples=sum(len(batch.items) for batch in batches)):
                results = await asyncio.gather(self.forward(shares[0]), *calls)
        except Exception as error:
            self._fail(batches, error)
            return
        self.counts.busy += time.monotonic() - began
        for batch, batch_results in zip(batches, results, strict=False):  # fillers have none
            self._deliver(batch, batch_results)

    def _items(self, batch: Batch) -> list[Any]:
        return [self._requests[item.ticket].items[item.place] for item in batch.items]

    def _deliver(self, batch: Batch, results: list[Any]) -> None:
        self.counts.batches += 1
        self.counts.tokens += batch.tokens
        self.counts.samples += len(results)
        for item, result in zip(batch.items, results, strict=True):
            self._result(item, result)

    def _result(self, item: Item, result: Any) -> None:
        request = self._requests[item.ticket]
        request.results[item.place] = result
        if len(request.results) < len(request.items):
            return
        del self._requests[item.ticket]
        if not request.answer.done():  # neither failed in another batch, nor given up by its caller
            request.answer.set_result([request.results[place] for place in range(len(request.items))])
            self._count(time.monotonic() - request.arrived)

    def _count(self, seconds: float) -> None:
        self.counts.requests += 1
        self.counts.latency += seconds
        self.counts.latency_max = max(self.counts.latency_max, seconds)

    def _fail(self, batches: list[Batch], error: Exception) -> None:
        """Requests of failed batches fail; with several ranks, which are out of step now, all do, and the replica ends."""
        items = [item for batch in batches for item in batch.items]
        if self.world > 1:
            self._broken = error
            items = [Item(ticket, place) for ticket, request in self._requests.items() for place in range(len(request.items))]
            self._room.set()
        for item in items:
            if not (answer := self._requests[item.ticket].answer).done():
                answer.set_exception(error)
        for item in items:
            self._result(item, None)
