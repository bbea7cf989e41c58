"""The fleet of engines when one of them dies, hangs or comes back, with engines that are simulated for it: what they are told,
in order. The same with real ones, killed: tests/chaos/test_faults.py.
"""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from scale_rlhf.config.schema import RecoverySection, RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.orchestration.deadlines import RoleFailed
from scale_rlhf.orchestration.health import Budget, State
from scale_rlhf.rollout import fleet as module
from scale_rlhf.rollout.fleet import RolloutFleet

PROMPT = Prompt(7, 7, np.zeros(1, np.int32))


class Engine:
    """`engine.method.remote(…)` is awaited. dead: every call fails. silent: no call ends."""

    def __init__(self, log: list, name: str):
        self.log, self.name, self.version_held = log, name, 0
        self.dead, self.silent, self.slow = False, False, False

    def __getattr__(self, method: str) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda *arguments, **named: self._call(method, *arguments))

    async def _call(self, method: str, *arguments):
        await asyncio.sleep(0.001)
        if self.silent or (self.slow and method == "generate"):
            await asyncio.sleep(60)
        if self.dead:
            raise ConnectionError("gone")
        if method in ("load", "take"):
            self.version_held = arguments[0]
        self.log.append((self.name, method, *(a for a in arguments if isinstance(a, int))))
        if method == "generate":
            ones = np.ones(1, np.int32)
            return Sample(arguments[0], ones, ones.astype(np.float32), ones * self.version_held, True)
        return {"take": {"stopped_seconds": 0.0}, "stage": 0.0, "version": self.version_held}.get(method)


class Fleet(RolloutFleet):
    def __init__(self, engines=2, restarts: int = 5, **limits):
        config = RunConfig(rollout={"engines": engines}, limits=limits, recovery={"answer_seconds": 0.05})
        section = RecoverySection(restarts=restarts, backoff_seconds=0.0)
        super().__init__(config, "model", [], Budget(section, lambda: 0.0))
        self.log: list = []
        self.made: list[Engine] = []

    def _actor(self, number: int) -> Engine:
        self.made.append(Engine(self.log, f"{number}{'abcdefgh'[sum(one.name[0] == str(number) for one in self.made)]}"))
        return self.made[-1]

    async def _identify(self, place: int) -> None:
        """They are no processes."""


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    monkeypatch.setattr(module, "end", lambda actors, processes: None)
    monkeypatch.setattr("ray.put", lambda value: value)


def run(body, granted=None, **settings):
    async def go():
        fleet = Fleet(**settings)
        await fleet.start([{}] * fleet.config.rollout.most, granted)
        try:
            return await asyncio.wait_for(body(fleet), 10)
        finally:
            await fleet.close()

    return asyncio.run(go())


async def settled(fleet: Fleet) -> None:
    while fleet.health.serving != list(range(len(fleet.engines))):
        await asyncio.sleep(0.001)


def test_a_dead_engines_samples_are_issued_again_and_it_comes_back_with_the_newest_weights():
    async def body(fleet):
        await fleet.load(1, {})
        fleet.engines[0].dead = True
        samples = await asyncio.gather(*(fleet.generate(PROMPT) for _ in range(6)))
        assert all(sample.versions[0] == 1 for sample in samples)
        assert ("0a", "generate") not in fleet.log
        await settled(fleet)
        own = [entry[1:] for entry in fleet.log if entry[0] == "0b"]
        assert own == [("start",), ("load", 1)]
        await asyncio.gather(*(fleet.generate(PROMPT) for _ in range(4)))
        assert ("0b", "generate") in fleet.log

    run(body)


def test_while_no_engine_serves_samples_wait():
    async def body(fleet):
        fleet.engines[0].dead = True
        sample = await fleet.generate(PROMPT)
        assert sample.versions[0] == 0 and [name for name, what, *_ in fleet.log if what == "generate"] == ["0b"]

    run(body, engines=1)


def test_a_version_that_is_published_while_an_engine_comes_back_is_loaded_too():
    async def body(fleet):
        await fleet.load(1, {})
        fleet.engines[1].dead = True
        waiting = asyncio.gather(*(fleet.generate(PROMPT) for _ in range(4)))
        while len(fleet.made) < 3:
            await asyncio.sleep(0)
        assert fleet.health.states[1] in (State.DEAD, State.RESTARTING)
        await fleet.load(2, {})
        await waiting
        await settled(fleet)
        assert fleet.engines[1].name == "1b" and fleet.engines[1].version_held == 2
        assert fleet.log.index(("0a", "take", 2)) >= 0

    run(body)


def test_an_engine_that_dies_while_it_takes_a_version_does_not_keep_the_others():
    async def body(fleet):
        fleet.engines[1].dead = True
        await fleet.load(1, {})
        assert ("0a", "take", 1) in fleet.log
        await settled(fleet)
        assert fleet.engines[1].name == "1b" and fleet.engines[1].version_held == 1

    run(body)


def test_a_late_sample_of_an_engine_that_lives_is_issued_again_and_the_engine_stays():
    async def body(fleet):
        fleet.engines[0].slow = True
        sample = await fleet.generate(PROMPT)
        assert sample.index == 7 and ("0a", "version") in fleet.log and len(fleet.made) == 2
        assert fleet.health.states == [State.HEALTHY, State.HEALTHY]

    run(body, generate_seconds=0.05)


def test_a_silent_engine_is_replaced():
    async def body(fleet):
        fleet.engines[0].silent = True
        await fleet.generate(PROMPT)
        await settled(fleet)
        assert fleet.engines[0].name == "0b"

    run(body, generate_seconds=0.05)


def test_a_sample_under_which_every_engine_fails_is_not_tried_for_ever():
    class Cursed(Fleet):
        def _actor(self, number):
            engine = super()._actor(number)
            engine.slow = True
            return engine

    async def go():
        fleet = Cursed(generate_seconds=0.05)
        await fleet.start([{}, {}])
        with pytest.raises(RoleFailed, match="sample 7 did not end within 0.05 s"):
            await fleet.generate(PROMPT)
        await fleet.close()

    asyncio.run(go())


def test_past_the_budget_whoever_generates_is_told():
    async def body(fleet):
        async def dies_again():
            while True:
                fleet.engines[0].dead = True
                await asyncio.sleep(0)

        killer = asyncio.create_task(dies_again())
        with pytest.raises(RunError, match="2 restarts within 60 minutes did not help"):
            while True:
                await fleet.generate(PROMPT)
        killer.cancel()

    run(body, engines=1, restarts=2)


def test_engines_that_share_a_collective_are_not_replaced_alone():
    async def body(fleet):
        fleet.open_transport("nccl")
        fleet.engines[0].dead = True
        with pytest.raises(RoleFailed, match="rollout engine 0: sample 7 failed: ConnectionError: gone"):
            await fleet.generate(PROMPT)

    run(body)


def test_engines_join_and_leave_with_nodes(monkeypatch):
    """Three places, of which one has a node at first. What leaves with its node costs no restart; what joins is up to date."""
    monkeypatch.setattr(module, "_LOOK", 0.001)
    there, told = {0}, []

    async def until(serving: list[int]) -> None:
        while fleet_now[0].health.serving != serving:
            await asyncio.sleep(0.001)

    async def body(fleet):
        fleet_now[0], fleet.budget.tell = fleet, told.append
        assert fleet.health.serving == [0] and [engine.name for engine in fleet.made] == ["0a"]
        await fleet.load(3, {})
        there.update({1, 2})
        await until([0, 1, 2])
        assert all(engine.version_held == 3 for engine in fleet.made)
        fleet.engines[2].dead = True
        there.remove(2)
        samples = await asyncio.gather(*(fleet.generate(PROMPT) for _ in range(6)))
        assert all(sample.versions[0] == 3 for sample in samples)
        await until([0, 1])
        await fleet.load(4, {})
        there.add(2)
        await until([0, 1, 2])
        assert fleet.made[-1].name == "2b" and fleet.made[-1].version_held == 4 and not fleet.budget.story
        assert [line.splitlines()[-1].strip() for line in told if "left" in line or "joined" in line][-2:] == [
            "rollout engine 2 left with its node; another starts when there is room for it",
            "rollout engine 2 has joined: 3 engines serve"]

    fleet_now: list = [None]
    run(body, granted=lambda place: place in there, engines={"min": 1, "max": 3})


def test_too_few_engines_for_too_long_stop_the_run(monkeypatch):
    monkeypatch.setattr(module, "_LOOK", 0.001)
    there = {0}

    async def body(fleet):
        fleet.engines[0].dead = True
        there.clear()
        with pytest.raises(RunError, match=r"0 engines serve, rollout.engines.min is 1, and the cluster has had no room"):
            await fleet.generate(PROMPT)

    run(body, granted=lambda place: place in there, engines={"min": 1, "max": 2}, start_seconds=0.05)
