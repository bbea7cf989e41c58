"""Evaluation while PPO trains, with real roles: an engine that dies while it answers held-out prompts."""

import asyncio
import time

import pytest
from safetensors.torch import load_file

from scale_rlhf.orchestration.health import Budget
from scale_rlhf.orchestration.roles import Roles, StartingModels
from tests.integration.test_overlap import STEPS, configuration, looped, summary
from tests.tiny import tiny_policy


def dies_once(roles: Roles) -> None:
    """The engine that is first asked a held-out prompt is killed while it decodes that and others."""
    generate, killed = roles.rollout.generate, []

    async def answer(prompt, **sampling):
        if prompt.index == -1002 and not killed:
            import ray

            killed.append(True)
            ray.kill(roles.rollout.engines[0])
        return await generate(prompt, **sampling)

    roles.rollout.generate = answer


def learned(step) -> dict:
    losses = (step.metrics[key] for key in ("policy/loss", "value/update_loss", "policy/gradient_norm"))
    return summary([one.sample for one in step.batch], *losses)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_engine_that_dies_meanwhile_is_replaced_and_the_run_is_the_same_to_the_bit(cluster, tmp_path):
    start = str(tiny_policy(tmp_path / "start", vocabulary=64, tokenizer=False))

    async def run(name: str, evaluated: list | None, said: list[str]) -> list:
        config = configuration()
        budget = Budget(config.recovery, time.monotonic, said.append)
        roles = Roles(config, StartingModels(start, start, start, None), end_token_ids=[1], budget=budget)
        try:
            await roles.start()
            if evaluated is not None:
                dies_once(roles)
            return await looped(config, roles, str(tmp_path / name), slow=False, evaluated=evaluated)
        finally:
            await roles.close()

    said, evaluated = [], []
    plain = asyncio.run(run("plain", None, []))
    steps = asyncio.run(run("evaluated", evaluated, said))
    assert any("rollout engine 0 starts again" in line for line in said), said
    assert [one.version for one in evaluated] == list(range(STEPS + 1))
    assert [learned(step) for step in steps] == [learned(step) for step in plain]
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "evaluated"))
    assert all(ours[name].equal(theirs[name]) for name in ours)
