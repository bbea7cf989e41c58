"""The fleet of engines as the controller sees it: one call a sample, to the engine with the fewest tokens to come."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.orchestration.deadlines import within
from scale_rlhf.rollout.engine import RolloutEngine

WAITING_CALLS = 100_000  # that Ray lets into an engine actor at once; admission bounds them long before


def transport(config: RunConfig) -> str:
    """The weight transport that the configuration asks for."""
    asked = config.rollout.weight_transfer
    if asked == "auto":
        return "nccl" if config.rollout.gpus else "shared_memory"
    if asked in ("nccl", "ipc") and not config.rollout.gpus:
        raise ConfigError(f"rollout.weight_transfer: {asked} needs GPUs; set rollout.gpus, or shared_memory")
    return asked


class RolloutFleet:
    """config.rollout.engines engines of one model. Used from one asyncio loop."""

    def __init__(self, config: RunConfig, model: str, end_token_ids: Sequence[int]):
        """model: folder or hub name. end_token_ids: tokens that end a response."""
        self.config, self.model, self.end_token_ids = config, model, list(end_token_ids)
        self.engines: list = []
        self._running: list[int] = []

    async def start(self, options: Sequence[dict]) -> None:
        """Start every engine at once; each then serves version 0. options: Ray's, of each engine."""
        self.engines = [self._actor(one) for one in options]
        self._running = [0] * len(self.engines)
        seconds = self.config.limits.start_seconds
        await asyncio.gather(*(within(engine.start.remote(), seconds, self._name(i), "start")
                               for i, engine in enumerate(self.engines)))

    async def generate(self, prompt: Prompt, **sampling: Any) -> Sample:
        """One response. sampling: temperature and max_tokens, where they are not the rollout's."""
        place = self._running.index(min(self._running))
        self._running[place] += 1
        try:
            call = self.engines[place].generate.remote(prompt, **sampling)
            return await within(call, self.config.limits.generate_seconds, self._name(place), f"sample {prompt.index}")
        finally:
            self._running[place] -= 1

    async def load(self, version: int, update_info: dict[str, Any]) -> float:
        """Every engine takes a published version. Returns the longest time that one did not decode, in seconds."""
        import ray

        info = await asyncio.to_thread(ray.put, update_info)
        what = f"loading version {version}"
        return max(await asyncio.gather(*(
            within(engine.load.remote(version, info), self.config.limits.publish_seconds, self._name(i), what)
            for i, engine in enumerate(self.engines)
        )))

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
        return [await asyncio.gather(*(within(engine.score.remote(sample), seconds, self._name(i), "probe") for sample in samples))
                for i, engine in enumerate(self.engines)]

    async def metrics(self) -> dict[str, float]:
        """Sums over engines since the last call: tokens, busy_seconds, running."""
        seconds = self.config.limits.score_seconds
        each = await asyncio.gather(*(within(engine.metrics.remote(), seconds, self._name(i), "metrics")
                                      for i, engine in enumerate(self.engines)))
        return {key: sum(one[key] for one in each) for key in each[0]}

    async def close(self) -> None:
        """Shut vLLM's child processes down, then end the actors, whatever state they are in."""
        import ray

        await asyncio.gather(*(asyncio.wait_for(_ended(engine), 15.0) for engine in self.engines), return_exceptions=True)
        for engine in self.engines:
            ray.kill(engine)
        self.engines = []

    def _actor(self, options: dict):
        import ray

        config = self.config
        return ray.remote(RolloutEngine).options(**({"max_concurrency": WAITING_CALLS} | options)).remote(
            config.rollout, self.model, seed=config.run.seed, end_token_ids=self.end_token_ids,
            max_tokens=config.data.max_prompt_tokens + config.rollout.max_response_tokens,
            transfer=transport(config), trust_remote_code=config.model.trust_remote_code,
        )

    def _name(self, place: int) -> str:
        return f"rollout engine {place}"


async def _ended(engine) -> None:
    await engine.close.remote()
