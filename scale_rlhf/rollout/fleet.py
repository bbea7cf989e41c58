"""The fleet of engines as the controller sees it: one call a sample, to the engine with the fewest running."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.orchestration.deadlines import within
from scale_rlhf.rollout.balance import Balance
from scale_rlhf.rollout.engine import RolloutEngine
from scale_rlhf.telemetry.spans import Span
from scale_rlhf.weights.choice import backend

WAITING_CALLS = 100_000  # that Ray lets into an engine actor at once; admission bounds them long before


class RolloutFleet:
    """config.rollout.engines engines of one model. Used from one asyncio loop."""

    actor: type[RolloutEngine] = RolloutEngine

    def __init__(self, config: RunConfig, model: str, end_token_ids: Sequence[int]):
        """model: folder or hub name. end_token_ids: tokens that end a response."""
        self.config, self.model, self.end_token_ids = config, model, list(end_token_ids)
        self.engines: list = []
        self.balance = Balance(0)

    async def start(self, options: Sequence[dict]) -> None:
        """Start every engine at once; each then serves version 0. options: Ray's, of each engine."""
        self.engines = [self._actor(number, one) for number, one in enumerate(options)]
        self.balance = Balance(len(self.engines))
        seconds = self.config.limits.start_seconds
        await self._all("start", seconds=seconds, what="start")

    async def places(self) -> list[tuple[str, str]]:
        """(Ray's id of its node, the node's address) of every engine."""
        return await self._all("place", seconds=self.config.limits.start_seconds, what="its node")

    async def open_transport(self, meeting: dict[str, Any] | None) -> None:
        """Engines join where the policy waits for them (broadcast); None: there is nothing to join."""
        if meeting is None:
            return
        loopback = meeting["address"].startswith("127.")
        workers = self.config.rollout.tensor_parallel
        places = await self.places()
        joining = (
            within(engine.begin_transfer.remote(
                meeting | {"first_rank": 1 + i * workers, "bind": meeting["address"] if loopback else places[i][1]},
            ), self.config.limits.start_seconds, self._name(i), "joining the weight transport")
            for i, engine in enumerate(self.engines)
        )
        await asyncio.gather(*joining)

    async def generate(self, prompt: Prompt, **sampling: Any) -> Sample:
        """One response. sampling: temperature and max_tokens, where they are not the rollout's."""
        place = self.balance.take()
        try:
            call = self.engines[place].generate.remote(prompt, **sampling)
            return await within(call, self.config.limits.generate_seconds, self._name(place), f"sample {prompt.index}")
        finally:
            self.balance.done(place)

    async def load(self, version: int, update_info: dict[str, Any]) -> dict[str, float]:
        """Every engine takes a published version: all stage it at once, `overlap.update_wave` at a time go over to it.

        Returns stage_seconds and stopped_seconds (the longest of any engine: decoding stopped for the second alone),
        and load_seconds, the whole.
        """
        import ray

        started = time.monotonic()
        info = await asyncio.to_thread(ray.put, update_info)
        seconds = self.config.limits.publish_seconds
        staged = await self._all("stage", version, info, seconds=seconds, what=f"staging version {version}")
        turns = asyncio.Semaphore(self.config.overlap.update_wave or len(self.engines))
        taken = await asyncio.gather(*(self._take(i, version, turns) for i in range(len(self.engines))))
        return {"stage_seconds": max(staged), "stopped_seconds": max(one["stopped_seconds"] for one in taken),
                "load_seconds": time.monotonic() - started}

    async def probe(self, prompts: Sequence[Prompt], max_tokens: int) -> list[Sample]:
        """Responses of every engine to the same prompts: [engines × prompts]."""
        seconds = self.config.limits.generate_seconds
        return list(await asyncio.gather(*(
            within(engine.generate.remote(prompt, max_tokens=max_tokens), seconds, self._name(i), "probe")
            for i, engine in enumerate(self.engines) for prompt in prompts
        )))

    async def score(self, samples: Sequence[Sample]) -> list[list[tuple[np.ndarray, int]]]:
        """What every engine gives to responses that it is shown, [engine][sample]: see `RolloutEngine.score`."""
        seconds = self.config.limits.generate_seconds
        return [
            await asyncio.gather(*(within(engine.score.remote(sample), seconds, self._name(i), "probe") for sample in samples))
            for i, engine in enumerate(self.engines)
        ]

    async def metrics(self) -> dict[str, float]:
        """Sums over engines: tokens and busy_seconds since the last call, samples running and waiting now."""
        each = await self._all("metrics", seconds=self.config.limits.score_seconds, what="metrics")
        return {key: sum(one[key] for one in each) for key in each[0]}

    async def spans(self) -> dict[str, list[Span]]:
        """What each engine was busy with since the last call, by lane of the timeline."""
        each = await self._all("spans", seconds=self.config.limits.score_seconds, what="spans")
        return {f"rollout/engine-{i}": spans for i, spans in enumerate(each)}

    async def close(self) -> None:
        """Shut vLLM's child processes down, then end the actors, whatever state they are in."""
        import ray

        await asyncio.gather(*(asyncio.wait_for(_ended(engine), 15.0) for engine in self.engines), return_exceptions=True)
        for engine in self.engines:
            ray.kill(engine)
        self.engines = []

    async def _take(self, place: int, version: int, turns: asyncio.Semaphore) -> dict[str, float]:
        limits, drains = self.config.limits, self.config.overlap.weight_update == "drain"
        seconds = limits.publish_seconds + (limits.generate_seconds if drains else 0.0)
        async with turns:
            self.balance.set_aside(place, drains)
            try:
                call = self.engines[place].take.remote(version)
                return await within(call, seconds, self._name(place), f"loading version {version}")
            finally:
                self.balance.set_aside(place, False)

    async def _all(self, method: str, *arguments: Any, seconds: float, what: str) -> list:
        return list(await asyncio.gather(*(within(getattr(engine, method).remote(*arguments), seconds, self._name(i), what)
                                           for i, engine in enumerate(self.engines))))

    def _actor(self, number: int, options: dict):
        import ray

        config = self.config
        return ray.remote(self.actor).options(**({"max_concurrency": WAITING_CALLS} | options)).remote(
            config.rollout, self.model, seed=config.run.seed, end_token_ids=self.end_token_ids,
            max_tokens=config.data.max_prompt_tokens + config.rollout.max_response_tokens,
            transfer=backend(config), overlap=config.overlap, name=self._name(number),
            trust_remote_code=config.model.trust_remote_code,
        )

    def _name(self, place: int) -> str:
        return f"rollout engine {place}"


async def _ended(engine) -> None:
    await engine.close.remote()
