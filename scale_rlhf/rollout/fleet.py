"""The fleet of engines as the controller sees it: one call a sample, to the engine with the fewest running.

An engine that dies, or falls silent, is replaced while the others go on; its samples are issued again, and give the same
tokens, since these follow from the weights and the sample's seed alone. It serves nothing before it has the current weights.
Engines that may come and go (rollout.engines: {min, max}) are started when the cluster has a node for them, and given up with it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import numpy as np

from scale_rlhf.cluster import names
from scale_rlhf.cluster.actors import Process, end, identify
from scale_rlhf.cluster.placement import until_granted
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError, UserError
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.orchestration.deadlines import RoleFailed, within
from scale_rlhf.orchestration.health import Budget, Health
from scale_rlhf.rollout.balance import Balance
from scale_rlhf.rollout.engine import RolloutEngine
from scale_rlhf.telemetry.spans import Span
from scale_rlhf.weights.choice import GROUPS, backend

WAITING_CALLS = 100_000  # that Ray lets into an engine actor at once; admission bounds them long before
_LOOK = 1.0  # seconds between looks whether there is a node for an engine
_TRIES = 3  # of a sample whose engine fails under it: past that it may be the sample

Published = tuple[int, dict[str, Any]]  # a version, and what engines load it from


class RolloutFleet:
    """Engines of one model, as many as config.rollout.engines says. Used from one asyncio loop."""

    actor: type[RolloutEngine] = RolloutEngine

    def __init__(self, config: RunConfig, model: str, end_token_ids: Sequence[int], budget: Budget | None = None,
                 namespace: str | None = None):
        """model: folder or hub name. end_token_ids: tokens that end a response. budget: None, no engine is replaced.

        namespace: in which Ray finds engines by their names.
        """
        self.config, self.model, self.end_token_ids, self.budget = config, model, list(end_token_ids), budget
        self.namespace = namespace
        self.engines: list = []  # by place; None where there is none yet
        self.processes: list[list[Process]] = []  # of each engine
        self.balance = Balance(0)
        self.replaceable = budget is not None
        self.published: Published | None = None  # the newest; None: that of the model's folder
        self._versions = asyncio.Lock()  # one version at a time
        self._back = asyncio.Event()  # an engine serves again
        self._repairs: set[asyncio.Task] = set()
        self.failed: asyncio.Future | None = None  # of repairs that cannot be made; whoever waits for an engine looks

    async def start(self, options: Sequence[dict], granted: Callable[[int], bool] | None = None) -> None:
        """Start every engine at once; each then serves version 0. options: Ray's, of each engine.

        granted: whether there is a node for an engine now, where they may come and go: those without one start later.
        """
        self.options, self.granted = list(options), granted
        self.failed = asyncio.get_running_loop().create_future()
        places = range(len(options))
        present = [place for place in places if granted is None or await asyncio.to_thread(granted, place)]
        self.engines, self.processes = [None for _ in places], [[] for _ in places]
        self.balance = Balance(len(options))
        self.health = Health([names.engine(place) for place in places], time.monotonic, stale=True)
        for place in {*places} - {*present}:
            self.health.tell(place, "died")
            self.balance.set_out(place, True)
        for place in present:
            self.engines[place] = self._actor(place)
        await asyncio.gather(*(self._call(place, "start", seconds=self.config.limits.start_seconds, what="start")
                               for place in present))
        await asyncio.gather(*map(self._identify, present))
        for place in {*places} - {*present}:
            self._repair(self._join(place))

    async def places(self) -> list[str]:
        """Ray's id of every engine's node."""
        return [place for place in await self._each("place", seconds=self.config.limits.start_seconds, what="its node") if place]

    def open_transport(self, transport: str) -> None:
        """How versions will come. vLLM's own ways are groups of the policy and all engines, lost with any one of them: then no
        engine is replaced alone.
        """
        self.replaceable = self.budget is not None and transport not in GROUPS

    async def generate(self, prompt: Prompt, **sampling: Any) -> Sample:
        """One response. sampling: temperature and max_tokens, where they are not the rollout's."""
        tries, place = 0, await self._free()
        while True:
            engine = self.engines[place]
            try:
                return await self._call(place, "generate", prompt, seconds=self.config.limits.generate_seconds,
                                        what=f"sample {prompt.index}", **sampling)
            except RoleFailed as failure:
                tries += 1
                if tries == _TRIES:
                    raise
                if not (failure.late and await self._answers(place)):
                    self._lost(place, engine, failure)
                another = await self._free()  # while the sample still counts for this one: another is better
            finally:
                self.balance.done(place)
            place = another

    async def stream(self, prompt: Prompt, **sampling: Any) -> AsyncIterator[Sample]:
        """One response while it grows, for someone who watches: see `RolloutEngine.stream`. It is not issued again where its
        engine fails. Close it early (`aclose`), and the engine stops there.
        """
        import ray

        place = await self._free()
        seconds, growing = self.config.limits.generate_seconds, self.engines[place].stream.remote(prompt, **sampling)
        try:
            while (grown := await within(anext(growing, None), seconds, self._name(place), f"sample {prompt.index}")) is not None:
                yield await within(grown, seconds, self._name(place), f"sample {prompt.index}")
        finally:
            ray.cancel(growing)  # nothing, where it has ended
            self.balance.done(place)

    async def load(self, version: int, update_info: dict[str, Any]) -> dict[str, float]:
        """Every engine takes a published version: all stage it at once, `overlap.update_wave` at a time go over to it.

        Returns stage_seconds and stopped_seconds (the longest of any engine: decoding stopped for the second alone),
        load_seconds, the whole, and published_bytes, which each engine took. An engine that fails meanwhile takes the version
        when it is back.
        """
        import ray

        started = time.monotonic()
        self.published = version, update_info
        async with self._versions:
            info = await asyncio.to_thread(ray.put, update_info)
            seconds = self.config.limits.publish_seconds
            staged = await self._each("stage", version, info, seconds=seconds, what=f"staging version {version}")
            turns = asyncio.Semaphore(self.config.overlap.update_wave or len(self.engines))
            taken = await self._all(lambda place: self._take(place, version, turns))
        return {"stage_seconds": max((one for one in staged if one is not None), default=0.0),
                "stopped_seconds": max((one["stopped_seconds"] for one in taken if one), default=0.0),
                "load_seconds": time.monotonic() - started,
                "published_bytes": float(sum(place["size"] for place in update_info.get("tensors", ())))}

    async def sleep(self) -> None:
        """Every engine gives up its GPU's memory, until it takes the next version."""
        await self._each("sleep", seconds=self.config.limits.publish_seconds, what="going to sleep")

    async def probe(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Sample]:
        """Responses of every engine that serves to the same prompts: [engines × prompts]."""
        seconds = self.config.limits.generate_seconds
        return list(await asyncio.gather(*(
            self._call(place, "generate", prompt, seconds=seconds, what="probe", max_tokens=max_tokens)
            for place in self.health.serving for prompt in prompts
        )))

    async def score(self, samples: Sequence[Sample]) -> dict[int, list[tuple[np.ndarray, int]]]:
        """What every engine that serves gives to responses that it is shown, by its place: see `RolloutEngine.score`."""
        seconds = self.config.limits.generate_seconds

        async def one(place: int) -> list[tuple[np.ndarray, int]]:
            calls = (self._call(place, "score", sample, seconds=seconds, what="probe") for sample in samples)
            return await asyncio.gather(*calls)

        return {place: each for place, each in enumerate(await self._all(one)) if each is not None}

    async def metrics(self) -> dict[str, float]:
        """Sums over engines: tokens and busy_seconds since the last call, samples running and waiting now; engines that serve."""
        each = await self._each("metrics", seconds=self.config.limits.score_seconds, what="metrics")
        keys = ("tokens", "busy_seconds", "running", "waiting")
        return {key: sum(one[key] for one in each if one) for key in keys} | {"engines": float(len(self.health.serving))}

    async def spans(self) -> dict[str, list[Span]]:
        """What each engine was busy with since the last call, by lane of the timeline."""
        each = await self._each("spans", seconds=self.config.limits.score_seconds, what="spans")
        return {names.engine(i): spans or [] for i, spans in enumerate(each)}

    async def close(self) -> None:
        """Shut vLLM's child processes down, then end the actors, whatever state they are in."""
        for repair in self._repairs:
            repair.cancel()
        await asyncio.gather(*self._repairs, return_exceptions=True)
        engines = [engine for engine in self.engines if engine is not None]
        await asyncio.gather(*(asyncio.wait_for(_ended(engine), 15.0) for engine in engines), return_exceptions=True)
        end(engines, [one for each in self.processes for one in each])
        self.engines = []
        if self.failed is not None:
            self.failed.cancel()

    async def _free(self) -> int:
        """The engine for one more sample; waits where none serves."""
        while True:
            if self.failed.done():
                self.failed.result()
            if (place := self.balance.take()) is not None:
                return place
            # Bounded by the deadlines of the repairs that run, and by the budget that they spend.
            self._back.clear()
            back = asyncio.ensure_future(self._back.wait())
            await asyncio.wait([back, self.failed], return_when=asyncio.FIRST_COMPLETED)
            back.cancel()

    async def _take(self, place: int, version: int, turns: asyncio.Semaphore) -> dict[str, float]:
        limits, drains = self.config.limits, self.config.overlap.weight_update == "drain"
        seconds = limits.publish_seconds + (limits.generate_seconds if drains else 0.0)
        async with turns:
            self.balance.set_aside(place, drains)
            try:
                return await self._call(place, "take", version, seconds=seconds, what=f"loading version {version}")
            finally:
                self.balance.set_aside(place, False)

    async def _call(self, place: int, method: str, *arguments: Any, seconds: float, what: str, **named: Any) -> Any:
        return await within(getattr(self.engines[place], method).remote(*arguments, **named), seconds, self._name(place), what)

    async def _each(self, method: str, *arguments: Any, seconds: float, what: str) -> list:
        return await self._all(lambda place: self._call(place, method, *arguments, seconds=seconds, what=what))

    async def _all(self, call: Callable[[int], Coroutine]) -> list:
        """Of every engine that serves, by place; None where one does not, or fails now."""
        results: list = [None] * len(self.engines)

        async def one(place: int) -> None:
            engine = self.engines[place]
            try:
                results[place] = await call(place)
            except RoleFailed as failure:
                self._lost(place, engine, failure)

        await asyncio.gather(*(one(place) for place in self.health.serving))
        return results

    def _lost(self, place: int, engine: Any, failure: RoleFailed) -> None:
        """That engine failed: have it replaced, unless another call has seen to it. Raises where none is replaced."""
        if not self.replaceable:
            raise failure
        if self.engines[place] is not engine or not self.health.tell(place, "died"):
            return
        failure = failure.seen(self.processes[place])
        self.balance.set_out(place, True)
        self._repair(self._replace(place, failure))

    def _repair(self, work: Coroutine) -> None:
        repair = asyncio.create_task(work)
        self._repairs.add(repair)
        repair.add_done_callback(self._repaired)

    async def _answers(self, place: int) -> bool:
        """Whether an engine whose sample is late lives. It gets no more samples until it has said so."""
        if not self.replaceable or not self.health.tell(place, "late"):
            return False
        self.balance.set_out(place, True)
        try:
            await self._call(place, "version", seconds=self.config.recovery.answer_seconds, what="a question whether it lives")
        except RoleFailed:
            return False
        self.balance.set_out(place, False)
        self._back.set()
        return self.health.tell(place, "answered")

    async def _replace(self, place: int, failure: RoleFailed) -> None:
        """A new engine in the place of a dead one; again, while there is budget. Where its node left, one joins later."""
        while True:
            end([self.engines[place]], self.processes[place])
            if self.granted and not await asyncio.to_thread(self.granted, place):
                self.budget.tell(f"{failure}\n  {self._name(place)} left with its node; another starts when there is room for it")
                return await self._join(place)
            await asyncio.sleep(self.budget.spend(self._name(place), str(failure)))
            try:
                return await self._begin(place)
            except RoleFailed as again:
                failure = again

    async def _join(self, place: int) -> None:
        """An engine in a place that has had no node, once it has one. Waits for ever, where others serve meanwhile."""
        alone_since = None
        while not await asyncio.to_thread(self.granted, place):
            enough = len(self.health.serving) >= self.config.rollout.fewest
            alone_since = None if enough else alone_since or time.monotonic()
            if alone_since and time.monotonic() - alone_since > self.config.limits.start_seconds:
                raise RunError(f"{len(self.health.serving)} engines serve, rollout.engines.min is {self.config.rollout.fewest}, "
                               f"and the cluster has had no room for another for {self.config.limits.start_seconds:g} s")
            await asyncio.sleep(_LOOK)
        try:
            await self._begin(place)
        except RoleFailed as failure:
            return await self._replace(place, failure)
        self.budget.tell(f"{self._name(place)} has joined: {len(self.health.serving)} engines serve")

    async def _begin(self, place: int) -> None:
        """Start an engine, and have it serve once it has the newest weights. Raises RoleFailed."""
        self.health.tell(place, "restart")
        try:
            await until_granted([self.options[place]], self.config.limits.start_seconds, self._name(place))
            self.engines[place] = self._actor(place)
            await self._call(place, "start", seconds=self.config.limits.start_seconds, what="start")
            await self._identify(place)
            self.health.tell(place, "started")
            await self._catch_up(place)
        except RoleFailed:
            self.health.tell(place, "died")
            raise
        self.health.tell(place, "loaded")
        self.balance.set_out(place, False)
        self._back.set()

    async def _catch_up(self, place: int) -> None:
        """Load the newest version; a newer one may be published meanwhile, and take the place of the bytes being read."""
        loaded = None
        while self.published is not loaded:
            loaded = self.published
            try:
                async with self._versions:
                    await self._call(place, "load", *loaded, seconds=self.config.limits.publish_seconds,
                                     what=f"loading version {loaded[0]}")
            except RoleFailed:
                raise
            except UserError:  # the checksums of bytes that were overwritten
                if self.published is loaded:
                    raise

    def _repaired(self, repair: asyncio.Task) -> None:
        self._repairs.discard(repair)
        if not repair.cancelled() and (error := repair.exception()) and not self.failed.done():
            self.failed.set_exception(error)

    async def _identify(self, place: int) -> None:
        self.processes[place] = await identify([self.engines[place]])

    def _actor(self, number: int):
        config = self.config
        return names.start(
            self.actor, names.engine(number), config.rollout, self.model,
            options={"max_concurrency": WAITING_CALLS} | self.options[number], namespace=self.namespace,
            seed=config.run.seed, end_token_ids=self.end_token_ids,
            max_tokens=config.data.max_prompt_tokens + config.rollout.max_response_tokens,
            transfer=backend(config), overlap=config.overlap, who=self._name(number),
            trust_remote_code=config.model.trust_remote_code,
        )

    def _name(self, place: int) -> str:
        return f"rollout engine {place}"


async def _ended(engine) -> None:
    await engine.close.remote()
