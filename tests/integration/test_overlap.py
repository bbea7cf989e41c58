"""Staleness 0 is a plain sequential loop, bit for bit, whatever the engines' timing; and what a run shows of its overlap."""

import asyncio
import json
from itertools import islice

import numpy as np
import pytest
from safetensors.torch import load_file

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.experience.prompts import PromptStream
from scale_rlhf.experience.sample import Prompt
from scale_rlhf.orchestration.evaluations import Evaluation, Evaluations
from scale_rlhf.orchestration.loop import Loop
from scale_rlhf.orchestration.roles import Roles, StartingModels
from scale_rlhf.telemetry.timeline import Timeline, read_lanes
from scale_rlhf.training.batch import TrainingBatch
from tests.tiny import tiny_policy

BATCH, GROUP, STEPS = 12, 5, 3
PROMPTS = [list(range(4, 4 + length)) for length in (2, 5, 3, 7, 4)]


def reward(samples: list[dict]) -> list[float]:
    """The reward function that the runs name by its import path."""
    return [len(set(sample["response_ids"])) / 10 for sample in samples]


def configuration(**overlap) -> RunConfig:
    small = {"cpus": 0.5}
    trained = small | {"zero_stage": 1, "learning_rate": 3e-3}
    return RunConfig.model_validate({
        "data": {"max_prompt_tokens": 8},
        "rollout": small | {"engines": 2, "max_response_tokens": 12, "kv_cache_gb": 0.05, "temperature": 0.8},
        "reward": small | {"function": "tests.integration.test_overlap:reward"},
        "reference": small,
        "policy": trained, "value": trained | {"initial": "policy"},
        "ppo": {"steps": STEPS, "prompts_per_step": BATCH, "epochs": 2, "minibatches": 2, "tokens_per_microbatch": 64},
        "overlap": {"score_group": GROUP} | overlap, "evaluation": {"every": 1},
    })


def stream():
    return PromptStream(PROMPTS, [{}] * len(PROMPTS), responses=1, seed=0)


async def with_roles(config: RunConfig, path, body):
    roles = Roles(config, StartingModels(str(path), str(path), str(path), None), end_token_ids=[1])
    try:
        await roles.start()
        return await body(roles)
    finally:
        await roles.close()


async def sequential(config: RunConfig, roles: Roles, saved: str) -> list[dict]:
    """What the loop must equal: generate all, score all in groups of GROUP, update, publish; one call after the other."""
    history, prompts, groups = [], iter(stream()), -(-BATCH // GROUP)
    for version in range(STEPS):
        samples = [await roles.rollout.generate(prompt) for prompt in islice(prompts, BATCH)]
        scores, references = [], []
        for number, start in enumerate(range(0, BATCH, GROUP)):
            part, group = samples[start : start + GROUP], version * groups + number
            scores += await roles.reward.score(part, fixed=True, group=group)
            references += await roles.reference.logprobs(part, fixed=True, group=group)
        batch = TrainingBatch(samples, np.asarray(scores, np.float32), references, config.ppo.kl_coefficient)
        advantages, _ = await roles.value.prepare(batch)
        policy = await roles.policy.update(batch, advantages, version)
        value = await roles.value.update(batch, version)
        await roles.rollout.load(version + 1, await roles.policy.publish(version + 1))
        history.append(summary(samples, policy["loss"], value["loss"], policy["gradient_norm"]))
    await roles.policy.save(saved)
    return history


def summary(samples, policy_loss, value_loss, norm) -> dict:
    return {
        "tokens": [sample.response_ids.tolist() for sample in samples], "logprobs": [s.logprobs.tolist() for s in samples],
        "versions": [sample.versions.tolist() for sample in samples], "losses": [policy_loss, value_loss, norm],
    }


async def looped(config: RunConfig, roles: Roles, saved: str, slow: bool, timeline: Timeline | None = None,
                 evaluated: list[Evaluation] | None = None) -> list:
    """evaluated: takes evaluations during training; None: there are none."""
    steps = []

    async def on_step(step) -> None:
        steps.append(step)
        if timeline is not None:
            timeline.add(step.lanes)

    if slow:
        slow_down(roles.rollout)
    if config.overlap.max_staleness:
        next_batch_during_update(roles)
    asked = [Prompt(-1000 - place, -1, np.asarray(ids, np.int32)) for place, ids in enumerate(PROMPTS)]
    evaluations = None if evaluated is None else Evaluations(config, roles, asked, done=evaluated.append)
    loop = Loop(config, roles, stream(), on_step, evaluations=evaluations)
    loop.parity.probe_with([np.asarray(ids, np.int32) for ids in PROMPTS])
    await loop.run()
    await roles.policy.save(saved)
    return steps


def slow_down(fleet) -> None:
    """Every answer is asked for and handed on after a random time, so that samples end in any order."""
    generate, random = fleet.generate, np.random.default_rng(5)

    async def later(prompt, **sampling):
        before, after = random.exponential(0.05, 2)
        await asyncio.sleep(before)
        sample = await generate(prompt, **sampling)
        await asyncio.sleep(after)
        return sample

    fleet.generate = later


def next_batch_during_update(roles: Roles) -> None:
    """Samples of the second batch begin when the first update does: a fast machine has them done before, a slow one after."""
    generate, update, updating = roles.rollout.generate, roles.policy.update, asyncio.Event()

    async def later(prompt, **sampling):
        if prompt.index >= BATCH:
            await updating.wait()
        return await generate(prompt, **sampling)

    async def begun(*arguments):
        updating.set()
        return await update(*arguments)

    roles.rollout.generate, roles.policy.update = later, begun


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("overlap") / "start", vocabulary=64, tokenizer=False)


def test_staleness_0_equals_a_sequential_loop_bit_for_bit(cluster, start, tmp_path):
    """Held-out prompts that the loop alone answers, before each version, change no bit either."""
    config, evaluated = configuration(), []
    plain = asyncio.run(with_roles(config, start, lambda roles: sequential(config, roles, str(tmp_path / "plain"))))
    steps = asyncio.run(with_roles(
        config, start, lambda roles: looped(config, roles, str(tmp_path / "loop"), slow=True, evaluated=evaluated)))
    for step, expected in zip(steps, plain, strict=True):
        losses = [step.metrics[key] for key in ("policy/loss", "value/update_loss", "policy/gradient_norm")]
        assert summary([one.sample for one in step.batch], losses[0], losses[1], losses[2]) == expected
    trained, again = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "loop"))
    begun = load_file(start / "model.safetensors")
    assert trained.keys() == again.keys() and all(trained[name].equal(again[name]) for name in trained)
    assert not any(trained[name].equal(begun[name]) for name in trained)
    assert [one.version for one in evaluated] == list(range(STEPS + 1))
    assert all({*answer.versions.tolist()} == {one.version} for one in evaluated for answer in one.answers)
    assert all(len(one.answers) == len(PROMPTS) == len(one.rewards) for one in evaluated)


def test_one_step_ahead_shows_what_overlaps(cluster, start, tmp_path):
    config, timeline = configuration(max_staleness=1, update_wave=1), Timeline(tmp_path / "timeline.json")
    config.rollout.verify_weights = True
    evaluated: list[Evaluation] = []
    steps = asyncio.run(with_roles(config, start, lambda roles: looped(
        config, roles, str(tmp_path / "loop"), slow=True, timeline=timeline, evaluated=evaluated)))
    timeline.close()
    assert evaluated[0].version == 0 and evaluated[-1].version == STEPS
    assert json.loads((tmp_path / "timeline.json").read_text())[0]["args"]["name"] == "controller"
    lanes = read_lanes(tmp_path / "timeline.json")
    engines = ["rollout/engine-0", "rollout/engine-1"]
    assert list(lanes) == ["controller", *engines, "reward/calls", "reference/0", "policy/0", "value/0"]
    names = {lane: {span.name for span in spans} for lane, spans in lanes.items()}
    assert {"decode", "load"} <= names["rollout/engine-0"] and {"update", "publish"} <= names["policy/0"]
    assert {"values", "update"} <= names["value/0"] and "forward" in names["reference/0"] and "wait_batch" in names["controller"]
    updates = [span for span in lanes["policy/0"] if span.name == "update"]
    decodes = [span for lane in engines for span in lanes[lane] if span.name == "decode"]
    assert any(d.start < u.end and u.start < d.end for d in decodes for u in updates), "decoding during an update"
    for step in steps:
        shares = [step.metrics[f"idle/{role}"] for role in ("rollout", "reward", "reference", "policy", "value")]
        assert all(0 <= share <= 1 for share in shares)
        assert step.metrics["time/bubble"] == pytest.approx(step.metrics["time/step"] * min(shares), abs=1e-6)
    assert {int(step.metrics["staleness/max"]) for step in steps} == {0, 1}
