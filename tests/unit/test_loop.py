"""The loop with roles that are simulated, for what no real role does on request: late, stuck and failing ones, in order."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.experience.prompts import PromptStream
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.orchestration.deadlines import within
from scale_rlhf.orchestration.loop import Loop
from scale_rlhf.telemetry.spans import Span

ONE = np.zeros(1, np.float32)
BATCH = 4


class World:
    """All five roles. Seconds that each call takes can be set, and what happened is told in `events`."""

    def __init__(self, **seconds: float):
        self.seconds = {"generate": 0.001, "score": 0.0, "update": 0.005, "publish": 0.0, "load": 0.0} | seconds
        self.events: list[str] = []
        self.version = 0
        self.decoding = self.most_decoding = self.scoring = 0
        self.stuck: str | None = None

    def roles(self) -> SimpleNamespace:
        return SimpleNamespace(rollout=self, reward=self, reference=self, policy=self, value=self, all=lambda: [self])

    async def takes(self, what: str) -> None:
        if self.stuck == what:
            await within(asyncio.sleep(60), 0.05, what, "a test")
        await asyncio.sleep(self.seconds[what])

    async def generate(self, prompt: Prompt) -> Sample:
        version, self.decoding = self.version, self.decoding + 1
        self.most_decoding = max(self.most_decoding, self.decoding)
        await self.takes("generate")
        self.decoding -= 1
        return Sample(prompt, np.zeros(1, np.int32), ONE, np.full(1, version, np.int32), True)

    async def score(self, samples, **how) -> list[float]:
        await self.takes("score")
        return [0.0] * len(samples)

    async def logprobs(self, samples, **how) -> list[np.ndarray]:
        return [ONE] * len(samples)

    async def prepare(self, batch):
        return [ONE] * len(batch.samples), {}

    async def update(self, *arguments) -> dict:
        await self.takes("update")
        return {"tokens": 1.0}

    async def publish(self, version: int) -> dict:
        self.events.append(f"publish {version}")
        await self.takes("publish")
        return {"version": version}

    async def load(self, version: int, info: dict) -> dict:
        self.events.append(f"load {version}")
        await self.takes("load")
        self.version = version
        self.events.append(f"loaded {version}")
        return {"stopped_seconds": 0.0}

    async def metrics(self) -> dict:
        return {"busy_seconds": 0.0}

    async def spans(self) -> dict[str, list[Span]]:
        return {"rollout/engine-0": []}


def run(world: World, staleness: int, steps: int = 6, **ppo) -> tuple[Loop, list]:
    config = RunConfig.model_validate({
        "ppo": {"steps": steps, "prompts_per_step": BATCH} | ppo, "overlap": {"max_staleness": staleness, "score_group": 2}})
    done = []

    async def on_step(step) -> None:
        done.append(step)

    async def go() -> Loop:
        loop = Loop(config, world.roles(), PromptStream([[1]], [{}], responses=config.ppo.responses_per_prompt, seed=0), on_step)
        world.loop = loop
        await loop.run()
        return loop

    return asyncio.run(go()), done


@pytest.mark.parametrize("staleness", [0, 1, 4])
def test_every_sample_is_trained_once_and_none_too_old(staleness):
    loop, steps = run(World(load=0.01), staleness)
    assert sorted(one.sample.index for step in steps for one in step.batch) == list(range(6 * BATCH))
    ages = [step.version - 1 - int(one.sample.versions.min()) for step in steps for one in step.batch]
    assert max(ages) <= staleness and (max(ages) > 0) == (staleness > 0)
    assert loop.admission.in_flight == 0 and [step.version for step in steps] == [1, 2, 3, 4, 5, 6]
    shares = [step.metrics[f"staleness/share_{age}"] for step in steps for age in range(int(step.metrics["staleness/max"]) + 1)]
    assert sum(shares) == pytest.approx(len(steps))


def test_synchronous_waits_for_the_engines_and_one_step_ahead_does_not():
    for staleness in (0, 1):
        world = World(load=0.03, update=0.0, generate=0.0)
        run(world, staleness, steps=4)
        early = world.events.index("publish 2") < world.events.index("loaded 1")
        assert early == (staleness > 0), world.events


def test_a_version_is_not_written_where_engines_still_read_the_last_but_one():
    world = World(load=0.05, update=0.0, generate=0.0)
    run(world, staleness=4, steps=6)
    for version in range(3, 7):
        assert world.events.index(f"publish {version}") > world.events.index(f"loaded {version - 2}"), world.events
    loads = [event for event in world.events if event.startswith("load")]
    assert loads == [f"{what} {v}" for v in range(1, 7) for what in ("load", "loaded")], "one version after the other"


@pytest.mark.parametrize("slow", ["score", "update", "load"])
def test_queues_are_bounded_whoever_is_slow(slow):
    world = World(**{slow: 0.05})
    loop, steps = run(world, staleness=2)
    assert world.most_decoding <= 3 * BATCH
    assert all(step.metrics["queue/buffer"] <= 3 * BATCH and step.metrics["queue/in_flight"] <= 4 * BATCH for step in steps)
    assert len(steps) == 6


@pytest.mark.parametrize("staleness", [0, 2])
@pytest.mark.parametrize("stuck", ["generate", "score", "update", "publish", "load"])
def test_who_is_late_ends_the_run_and_is_named(stuck, staleness):
    world = World()
    world.stuck = stuck
    with pytest.raises(RunError, match=f"{stuck}: a test did not end within 0.05 s"):
        run(world, staleness)


def test_responses_to_one_prompt_leave_together_and_are_never_split():
    world = World()
    _, steps = run(world, staleness=3, prompts_per_step=2, responses_per_prompt=2)
    for step in steps:
        groups = [one.sample.prompt.group for one in step.batch]
        assert len(groups) == 4 and all(groups.count(group) == 2 for group in groups)
