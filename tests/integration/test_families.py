"""Every model family as policy, through PPO with all five roles: the engine's log-probabilities are the trainer's, per token.

The reward model is an encoder with a tokenizer of its own, which reads what each policy said as text.
"""

import asyncio
import json

import numpy as np
import pytest
import torch

from scale_rlhf.config.checks import check
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.experience.prompts import PromptStream
from scale_rlhf.orchestration.loop import Loop
from scale_rlhf.orchestration.roles import Roles, StartingModels
from tests.families import ATTENTION, FAMILIES, WINDOW, family_policy, tiny_encoder
from tests.tiny import END, TEXT

LIMIT = 1e-4  # nats, fp32
STEPS = 2


def configuration(family: str, policy: str, reward: str, prompts: str) -> RunConfig:
    shared = {"cpus": 0.5}
    trained = shared | {"learning_rate": 0.01, "schedule": "constant", "zero_stage": 2}
    return RunConfig.model_validate({
        "model": {"path": policy, "attention": ATTENTION[family]},
        "data": {"max_prompt_tokens": 60, "prompts": prompts},
        "rollout": shared | {"max_response_tokens": 24, "ignore_end": True, "temperature": 0.7, "max_concurrent": 16,
                             "kv_cache_gb": 0.05, "verify_weights": family != "gpt2"},
        "reward": shared | {"model": reward, "tokens_per_batch": 100}, "reference": shared, "policy": trained,
        "value": trained | {"initial": "policy"},
        "ppo": {"steps": STEPS, "prompts_per_step": 8, "epochs": 1, "minibatches": 2, "tokens_per_microbatch": 150},
    })


async def through_ppo(config: RunConfig, prompts: list, saved) -> list:
    """The steps; models/vN of every version after the first."""
    path, steps = config.model.path, []

    async def remember(step):
        steps.append(step)
        await roles.policy.save(str(saved / f"v{step.version}"))

    roles = Roles(config, StartingModels(path, path, path, config.reward.model), end_token_ids=[END])
    try:
        await roles.start()
        rows = [{"messages": messages} for messages, _ in prompts]
        loop = Loop(config, roles, PromptStream([ids for _, ids in prompts], rows, responses=1, seed=0), remember)
        loop.parity.probe_with([np.asarray(ids, np.int32) for _, ids in prompts[:2]])
        await loop.run()
    finally:
        await roles.close()
    return steps


def plain_logprobs(model, sample, temperature: float) -> np.ndarray:
    """By plain transformers, the sample alone."""
    ids = torch.tensor([[*sample.prompt.token_ids, *sample.response_ids]]).long()
    first = len(sample.prompt.token_ids)
    with torch.no_grad():
        distribution = torch.log_softmax(model(input_ids=ids).logits[0] / temperature, -1)
    return distribution[first - 1 : -1].gather(-1, ids[0, first:, None])[:, 0].numpy()


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "qwen3"])  # every other test has Qwen3's shape
def test_a_family_goes_through_ppo_with_the_engine_in_step(cluster, tmp_path, family):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    policy, encoder = str(family_policy(tmp_path / "v0", family)), str(tiny_encoder(tmp_path / "encoder", context=48))
    asked = [[{"role": "user", "content": text}] for text in TEXT]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"messages": one}) + "\n" for one in asked))
    config = configuration(family, policy, encoder, str(tmp_path / "prompts.jsonl"))
    check(config, ["ppo"], starts=False)
    tokenizer, own = AutoTokenizer.from_pretrained(policy), AutoTokenizer.from_pretrained(encoder)
    prompts = [(one, tokenizer.apply_chat_template(one, add_generation_prompt=True, return_dict=False)) for one in asked]
    steps = asyncio.run(through_ppo(config, prompts, tmp_path))

    assert len(steps) == STEPS and all(np.isfinite(list(step.metrics.values())).all() for step in steps)
    assert all(0 < step.metrics["parity/gap_max"] < LIMIT for step in steps)  # the run's own probe
    versions = [AutoModelForCausalLM.from_pretrained(tmp_path / f"v{version}", attn_implementation=ATTENTION[family]).eval()
                for version in range(STEPS + 1)]
    moved, gaps = [], []
    for version, step in enumerate(steps):
        for one in step.batch:
            sample = one.sample
            assert set(sample.versions) == {version} and sample.tokens > 3 * WINDOW
            found = [plain_logprobs(model, sample, 0.7) for model in versions[version : version + 2]]
            gaps.append(np.abs(found[0] - sample.logprobs).max())
            moved.append(np.abs(found[1] - sample.logprobs).max())
    print(family, "largest gap, nats", max(gaps), "smallest move of a sample", min(moved))
    assert max(gaps) < LIMIT < 100 * LIMIT < min(moved)  # every version is another model, and the engine has followed

    judge = AutoModelForSequenceClassification.from_pretrained(encoder).eval()
    own.truncation_side, scores = "left", [one.score for step in steps for one in step.batch]
    assert np.std(scores) > 0.01
    for score, sample in zip(scores, (one.sample for step in steps for one in step.batch), strict=True):
        pair = sample.prompt.row["messages"][0]["content"], tokenizer.decode(sample.response_ids, skip_special_tokens=True)
        with torch.no_grad():
            expected = judge(**own(*pair, truncation=True, max_length=48, return_tensors="pt")).logits[0, 0].item()
        assert score == pytest.approx(expected, abs=1e-4)
