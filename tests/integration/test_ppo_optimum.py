"""PPO through the real update path - vLLM engine, reward, reference, DeepSpeed policy and value - reaches π*."""

import asyncio

import numpy as np

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.experience.prompts import prompt_stream
from scale_rlhf.orchestration.loop import Loop
from scale_rlhf.orchestration.roles import Roles, StartingModels
from tests.integration import three_tokens as task
from tests.tiny import tiny_policy


def three_token_config() -> RunConfig:
    shared = {"cpus": 0.5}
    return RunConfig.model_validate({
        "data": {"max_prompt_tokens": 8},
        "rollout": shared | {"max_response_tokens": task.LENGTH, "ignore_end": True, "max_concurrent": 256, "kv_cache_gb": 0.05},
        "reward": shared | {"function": "tests.integration.three_tokens:reward"},
        "reference": shared,
        "policy": shared | {"learning_rate": 6e-3, "schedule": "linear", "zero_stage": 1},
        "value": shared | {"learning_rate": 1e-2, "schedule": "linear", "zero_stage": 1, "initial": "policy"},
        "ppo": {"steps": 80, "prompts_per_step": 256, "epochs": 2, "minibatches": 4, "tokens_per_microbatch": 640,
                "kl_coefficient": task.BETA, "missing_end_penalty": None, "value_clip": None, "lam": 1.0,
                "whiten_advantages": False},
        "overlap": {"score_group": 128},
    })


async def train(config: RunConfig, path: str, saved: str) -> list:
    steps = []

    async def remember(step):
        steps.append(step)

    roles = Roles(config, StartingModels(path, path, path, None), end_token_ids=[])
    try:
        await roles.start()
        loop = Loop(config, roles, prompt_stream([task.PROMPT], [{}], responses=1, seed=0), remember)
        loop.parity.probe_with([task.PROMPT])
        await loop.run()
        assert loop.admission.admitted == loop.admission.trained == config.ppo.steps * loop.batch
        assert loop.admission.in_flight == 0
        await roles.policy.save(saved)
    finally:
        await roles.close()
    return steps


def test_ppo_reaches_the_closed_form_optimum(cluster, tmp_path):
    start = tiny_policy(tmp_path / "start", vocabulary=task.SYMBOLS, tied=False, tokenizer=False)
    reference = task.distribution(start)
    best = task.optimum(reference)
    assert task.total_variation(reference, best) >= 0.4
    steps = asyncio.run(train(three_token_config(), str(start), str(tmp_path / "trained")))
    print([round(s.metrics["time/step"], 2) for s in steps], steps[-1].metrics)
    trained = task.distribution(tmp_path / "trained")
    assert max(s.metrics["parity/gap_max"] for s in steps) < 1e-4
    assert len(steps) == 80 and all(np.isfinite(list(s.metrics.values())).all() for s in steps)
    assert task.total_variation(trained, best) < 0.05
