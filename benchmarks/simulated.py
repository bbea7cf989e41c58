"""Roles that answer at once, for measuring the loop itself. Only what stands behind the roles is simulated: the loop and
the fleet, which chooses the engine of a sample, are the real ones.
"""

import asyncio
import random
from types import SimpleNamespace

import numpy as np

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.experience.prompts import PromptStream
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.rollout.fleet import RolloutFleet

PROMPT, RESPONSE = 16, 64  # tokens
NOTHING = {"busy_seconds": 0.0, "tokens": 0.0, "running": 0.0}
_ZEROS = np.zeros(RESPONSE, np.float32)
_IDS = np.zeros(RESPONSE, np.int32)


def run_config(engines: int, batch: int, updates: int, staleness: int) -> RunConfig:
    return RunConfig.model_validate({
        "rollout": {"engines": engines}, "overlap": {"max_staleness": staleness},
        "ppo": {"prompts_per_step": batch, "steps": updates, "kl_coefficient": 0.05},
    })


def prompt_stream() -> PromptStream:
    return PromptStream([np.zeros(PROMPT, np.int32)] * 1024, [{}] * 1024, responses=1, seed=0)


async def roles(config: RunConfig) -> SimpleNamespace:
    """The five roles as the loop sees them, started."""
    fleet = SimulatedFleet(config, "simulated", [])
    await fleet.start([{}] * config.rollout.engines)
    return SimpleNamespace(
        rollout=fleet, reward=Scoring(), reference=Scoring(), policy=Learner(), value=Learner(), all=lambda: [])


class SimulatedFleet(RolloutFleet):
    """The real fleet over engines that are no actors."""

    def _actor(self, *_) -> "SimulatedEngine":
        return SimulatedEngine()

    async def _identify(self, place: int) -> None:
        """They are no processes."""

    async def load(self, version: int, update_info: dict) -> dict[str, float]:
        for engine in self.engines:
            engine.version = version
        return {}

    async def metrics(self) -> dict[str, float]:
        return dict(NOTHING)


class SimulatedEngine:
    """Calls look like Ray's: `engine.generate.remote(prompt)` is awaited."""

    def __init__(self):
        self.version = 0
        self.waiting: list[tuple[asyncio.Future, Prompt]] = []
        self.generate = SimpleNamespace(remote=self._generate)
        self.start = SimpleNamespace(remote=lambda: _done(None))

    def _generate(self, prompt: Prompt, **sampling) -> asyncio.Future:
        loop = asyncio.get_running_loop()
        if not self.waiting:
            loop.call_soon(self._answer)
        future = loop.create_future()
        self.waiting.append((future, prompt))
        return future

    def _answer(self) -> None:
        """One sample ends, any of those that run: the others go on."""
        place = random.randrange(len(self.waiting))
        self.waiting[place], self.waiting[-1] = self.waiting[-1], self.waiting[place]
        future, prompt = self.waiting.pop()
        if self.waiting:
            asyncio.get_running_loop().call_soon(self._answer)
        if not future.done():
            future.set_result(Sample(prompt, _IDS, _ZEROS, np.full(RESPONSE, self.version, np.int32), True))


class Scoring:
    """Reward and reference."""

    async def score(self, samples: list[Sample], **how) -> list[float]:
        return [0.0] * len(samples)

    async def logprobs(self, samples: list[Sample], **how) -> list[np.ndarray]:
        return [_ZEROS] * len(samples)

    async def metrics(self) -> dict[str, float]:
        return dict(NOTHING)


class Learner:
    """Policy and value."""

    async def prepare(self, batch, *more) -> tuple[list[np.ndarray], dict[str, float]]:
        return [_ZEROS] * len(batch.samples), {}

    async def update(self, *arguments) -> dict[str, float]:
        return {"seconds": 0.0, "tokens": 1.0}

    async def publish(self, version: int, *more) -> dict:
        return {"version": version}


def _done(result) -> asyncio.Future:
    future = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future
