"""Engines that take turns with the learner on a GPU: what vLLM is told, in order. A fake in its place: sleep mode needs a GPU."""

import asyncio
from types import SimpleNamespace

import pytest

from scale_rlhf.config.checks import check
from scale_rlhf.config.schema import RolloutSection, RunConfig
from scale_rlhf.errors import ConfigError
from scale_rlhf.rollout.engine import RolloutEngine


class Recorder:
    """Takes down every call, as does each attribute of it."""

    def __init__(self, calls: list):
        self.calls = calls

    def __getattr__(self, name: str):
        async def call(*arguments, **named):
            self.calls.append((name, *arguments))

        return SimpleNamespace(pause_scheduler_async=call) if name == "engine_core" else call


def test_an_engine_sleeps_until_the_next_version_and_gets_its_cache_back_last():
    engine = RolloutEngine(RolloutSection(gpus=1, sleep=True), "model", seed=0, end_token_ids=[1], max_tokens=8, transfer="nccl")
    calls: list = []
    engine.engine = Recorder(calls)

    async def turn():
        await engine.sleep()
        await engine.freeze()
        await engine.thaw(3)
        await engine.freeze()  # awake: as any other update
        await engine.thaw(4)

    asyncio.run(turn())
    names = [call[0] if call[0] != "wake_up" else call[:2] for call in calls]
    first = ["sleep", "engine_core", ("wake_up", ["weights"]), "start_weight_update", "finish_weight_update",
             ("wake_up", ["kv_cache"]), "resume_generation"]
    assert names == first + ["engine_core", "start_weight_update", "finish_weight_update", "resume_generation"]


@pytest.mark.parametrize(("rollout", "overlap", "says"), [
    ({"sleep": True}, {}, "rollout.sleep: engines give up the memory of a GPU, and rollout.gpus is 0"),
    ({"sleep": True, "gpus": 1}, {"max_staleness": 1}, "rollout.sleep: engines that sleep during the update cannot decode"),
])
def test_sleep_needs_a_gpu_and_turns(rollout, overlap, says):
    with pytest.raises(ConfigError, match=says):
        check(RunConfig(data={"practice": {}}, rollout=rollout, overlap=overlap), starts=False)
