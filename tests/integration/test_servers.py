"""The reference and the rewards as they run: Ray actors, real models, against plain transformers."""

import asyncio
import time

import numpy as np
import pytest
import torch

from scale_rlhf.cluster.device import environment
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError, RunError
from scale_rlhf.experience.packing import cut
from scale_rlhf.reference.server import ReferenceFleet
from scale_rlhf.reward.make import make_reward
from tests.tiny import said, samples, tiny_classifier, tiny_policy

TEMPERATURE = 0.7
FUNCTIONS = '''
import time

def lengths(samples):
    return [len(sample["response_ids"]) + 100 * sample["ended"] for sample in samples]

def no_numbers(samples):
    return ["good"] * len(samples)

def sleeps(samples):
    time.sleep(30)
    return [0.0] * len(samples)

def fails_once(samples):
    """Hangs, dies or raises, as HOW says, and scores from then on."""
    import os, pathlib, time
    done = pathlib.Path(__file__).with_name("failed")
    if not done.exists():
        done.touch()
        {"hangs": lambda: time.sleep(600), "dies": lambda: os._exit(1), "raises": lambda: 1 / 0}[os.environ["HOW"]]()
    return [1.0 for _ in samples]
'''


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"policy": str(tiny_policy(folder / "policy")), "reward": str(tiny_classifier(folder / "reward"))}


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "rewards_of_a_user.py").write_text(FUNCTIONS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def config(**sections) -> RunConfig:
    small = {"cpus": 0.5, "tokens_per_batch": 100, "max_wait_ms": 2.0}
    return RunConfig(
        reference={**small, **sections.pop("reference", {})}, reward={**small, **sections.pop("reward", {})},
        rollout={"temperature": TEMPERATURE}, **sections,
    )


def with_fleet(fleet, scenario, **start):
    """Start the fleet, run `scenario(fleet)`, and end its processes whatever happens."""

    async def main():
        try:
            await fleet.start(**start)
            return await scenario(fleet)
        finally:
            fleet.close()

    return asyncio.run(main())


def plain_logprobs(folder: str, batch) -> list[np.ndarray]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for sample in batch:
        ids = torch.tensor(np.concatenate([sample.prompt.token_ids, sample.response_ids])[None].astype(np.int64))
        with torch.no_grad():
            logits = model(ids).logits[0, len(sample.prompt.token_ids) - 1:-1] / TEMPERATURE
        targets = torch.tensor(sample.response_ids.astype(np.int64))
        found.append(torch.log_softmax(logits, -1).gather(-1, targets[:, None])[:, 0].numpy())
    return found


def plain_scores(folder: str, dialogues) -> list[float]:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return [model(torch.tensor([list(map(int, ids))])).logits[0, 0].item() for ids in dialogues]


def whole(sample) -> np.ndarray:
    return np.concatenate([sample.prompt.token_ids, sample.response_ids])


def close_to(found, expected, limit=1e-5):
    assert len(found) == len(expected)
    assert max(np.abs(np.asarray(f) - np.asarray(e)).max() for f, e in zip(found, expected, strict=True)) < limit


def test_reference_of_two_replicas_equals_transformers_however_it_is_batched(cluster, models):
    batch = samples(40)
    expected = plain_logprobs(models["policy"], batch)
    assert np.std(np.concatenate(expected)) > 0.1  # the model prefers some tokens, or nothing is compared

    async def scenario(fleet):
        parts = [batch[start:start + 4] for start in range(0, 40, 4)]
        merged = await asyncio.gather(*(fleet.logprobs(part, fixed=False, group=0) for part in parts))
        metrics = await fleet.metrics()
        alone = [await fleet.logprobs(batch, fixed=True, group=group) for group in (0, 1)]
        return [row for part in merged for row in part], alone, metrics

    merged, alone, metrics = with_fleet(ReferenceFleet(config(reference={"replicas": 2}), models["policy"]), scenario)
    close_to(merged, expected)
    assert all(row.dtype == np.float32 and len(row) == len(s.response_ids) for row, s in zip(merged, batch, strict=True))
    close_to(alone[0], expected)
    for first, second in zip(*alone, strict=True):  # the replicas are the same model, bit for bit
        assert np.array_equal(first, second)
    assert metrics["samples"] == 40 and metrics["tokens"] == sum(s.tokens for s in batch)
    assert 0 < metrics["latency_mean_seconds"] <= metrics["latency_max_seconds"] < 10
    assert 0.2 < metrics["batch_fill"] <= 1 and 0 < metrics["busy_seconds"] < 20 and metrics["queue_max_samples"] >= 4


def test_fixed_requests_are_the_same_bits_whatever_else_is_in_flight(cluster, models):
    batch, others = samples(12), samples(60, seed=5)

    async def scenario(fleet):
        quiet = await fleet.logprobs(batch, fixed=True, group=0)
        noise = [asyncio.ensure_future(fleet.logprobs(others[n:n + 3], fixed=n % 2 == 0, group=0)) for n in range(0, 60, 3)]
        await asyncio.sleep(0.01)
        busy = await fleet.logprobs(batch, fixed=True, group=0)
        await asyncio.gather(*noise)
        return quiet, busy

    quiet, busy = with_fleet(ReferenceFleet(config(), models["policy"]), scenario)
    assert all(np.array_equal(q, b) for q, b in zip(quiet, busy, strict=True))


def test_a_learned_reward_equals_transformers(cluster, models):
    batch = samples(24)
    expected = plain_scores(models["reward"], [whole(sample) for sample in batch])
    assert np.std(expected) > 0.05

    async def scenario(fleet):
        parts = await asyncio.gather(*(fleet.score(batch[n:n + 3], fixed=False, group=0) for n in range(0, 24, 3)))
        return [score for part in parts for score in part], await fleet.score(batch, fixed=True, group=3), await fleet.metrics()

    fleet = make_reward(config(), model=models["reward"], policy=models["policy"])
    merged, fixed, metrics = with_fleet(fleet, scenario, probe=batch[:2])
    close_to(merged, expected)
    close_to(fixed, expected)
    assert metrics["samples"] == 48  # the probe is not counted


def test_two_zero_3_workers_agree_with_one(cluster, models, tmp_path):
    """Cut into an odd number of batches, so that a rank gets a filler; each rank holds its share of the parameters."""
    batch = samples(15)
    assert len(cut([sample.tokens for sample in batch], 100)) % 2 == 1
    policy = str(tiny_policy(tmp_path / "policy", hidden=256))
    kinds = {
        "reference": lambda: ReferenceFleet(config(reference={"workers": 2}), policy),
        "reward": lambda: make_reward(config(reward={"workers": 2}), model=models["reward"], policy=models["policy"]),
    }
    expected = {
        "reference": plain_logprobs(policy, batch), "reward": plain_scores(models["reward"], [whole(sample) for sample in batch]),
    }

    async def both():
        fleets = {name: make() for name, make in kinds.items()}
        fixed = {"fixed": True, "group": 0}
        call = {"reference": lambda f, s: f.logprobs(s, **fixed), "reward": lambda f, s: f.score(s, **fixed)}
        try:
            await asyncio.gather(*(fleet.start() for fleet in fleets.values()))
            first = {name: await call[name](fleet, batch) for name, fleet in fleets.items()}
            again = {name: await call[name](fleet, batch[:1]) for name, fleet in fleets.items()}
            return first, again, await fleets["reference"].metrics(), fleets["reference"].parameters
        finally:
            for fleet in fleets.values():
                fleet.close()

    first, again, metrics, held = asyncio.run(both())
    for name, whole_batch in expected.items():
        close_to(first[name], whole_batch)
        close_to(again[name], whole_batch[:1])
    assert metrics["samples"] == 16  # fillers are not counted
    from transformers import AutoModelForCausalLM

    total = AutoModelForCausalLM.from_pretrained(policy).num_parameters()
    assert len(held) == 1 and len(held[0]) == 2 and all(count < 0.6 * total for count in held[0])


def test_a_reward_with_another_vocabulary_reads_the_text(cluster, models, tmp_path):
    from transformers import AutoTokenizer

    other = str(tiny_classifier(tmp_path / "other", vocabulary=300))
    policy, own = AutoTokenizer.from_pretrained(models["policy"]), AutoTokenizer.from_pretrained(other)
    batch = [said(policy, index, *dialogue) for index, dialogue in enumerate(DIALOGUES)]
    dialogues = [
        own.apply_chat_template([{"role": "user", "content": q}, {"role": "assistant", "content": a}], return_dict=False)
        for q, a in DIALOGUES
    ]
    assert any(list(whole(sample)) != ids for sample, ids in zip(batch, dialogues, strict=True))
    expected = plain_scores(other, dialogues)
    fleet = make_reward(config(), model=other, policy=models["policy"])
    close_to(with_fleet(fleet, lambda fleet: fleet.score(batch, fixed=True, group=0)), expected)


DIALOGUES = [
    ("What is the capital of France?", "Paris."), ("Who?", "I do not know that place."),
    ("Tell me how to apply for a job.", "No"),
]


def test_a_function_scores(cluster, models, functions):
    batch = samples(6)
    section = {"function": "rewards_of_a_user:lengths", "replicas": 2}
    fleet = make_reward(config(reward=section), model=None, policy=models["policy"])

    async def scenario(fleet):
        scores = [await fleet.score(batch, fixed=True, group=group) for group in (0, 1)]
        return scores, await fleet.metrics()

    scores, metrics = with_fleet(fleet, scenario, probe=batch[:1])
    assert scores == [[float(len(s.response_ids)) + 100 * s.ended for s in batch]] * 2
    assert metrics["samples"] == 12 and metrics["busy_seconds"] > 0


@pytest.mark.parametrize(("function", "error", "said"), [
    ("rewards_of_a_user:length", ConfigError, "did you mean rewards_of_a_user:lengths"),
    ("rewards_of_a_user:no_numbers", RunError, "rewards_of_a_user:no_numbers: expected a list of 2 finite numbers"),
    ("rewards_of_a_user:sleeps", RunError, "rewards_of_a_user:sleeps, replica 0: scoring of 2 samples did not end within 0.5 s"),
])
def test_a_function_that_cannot_work_fails_at_start_and_is_named(cluster, models, functions, function, error, said):
    fleet = make_reward(config(reward={"function": function, "timeout_seconds": 0.5}), model=None, policy=models["policy"])
    with pytest.raises(error) as caught:
        with_fleet(fleet, lambda fleet: fleet.score(samples(1), fixed=True, group=0), probe=samples(2))
    assert said in str(caught.value) and "ray::" not in str(caught.value)  # the message alone


@pytest.mark.parametrize("how", ["hangs", "dies", "raises"])
def test_a_function_that_fails_once_scores_at_the_next_try(cluster, models, functions, how):
    section = {"function": "rewards_of_a_user:fails_once", "timeout_seconds": 5.0}
    fleet = make_reward(config(reward=section), model=None, policy=models["policy"])
    options = {"num_cpus": 0.5, "runtime_env": {"env_vars": environment(1) | {"HOW": how}}}

    async def scenario(fleet):
        scores = await asyncio.gather(*(fleet.score(samples(3), fixed=True, group=0) for _ in range(2)))
        return scores, await fleet.metrics()

    scores, metrics = with_fleet(fleet, scenario, options=[[options]])
    assert scores == [[1.0] * 3] * 2 and metrics["failed_tries"] >= 1 and metrics["failed_calls"] == 0


def test_a_missing_model_and_a_policy_for_a_reward_are_configuration_errors(cluster, models, tmp_path):
    (tmp_path / "empty").mkdir()
    for model, expected in ((str(tmp_path / "empty"), "empty"), (models["policy"], "expected a sequence-classification model")):
        fleet = make_reward(config(), model=model, policy=models["policy"])
        with pytest.raises(ConfigError) as caught:
            with_fleet(fleet, lambda fleet: fleet.score(samples(1), fixed=True, group=0))
        assert expected in str(caught.value) and "ray::" not in str(caught.value)  # the message alone


def test_a_killed_replica_is_named(cluster, models):
    import ray

    fleet = ReferenceFleet(config(reference={"replicas": 2}, limits={"score_seconds": 20.0}), models["policy"])

    async def scenario(fleet):
        ray.kill(fleet._fleet._replicas[1][0])
        await fleet.logprobs(samples(2), fixed=True, group=0)
        with pytest.raises(RunError, match="reference replica 1"):
            await fleet.logprobs(samples(2), fixed=True, group=1)

    with_fleet(fleet, scenario)


def test_a_killed_rank_of_a_replica_does_not_hang_its_callers(cluster, models):
    import ray

    fleet = ReferenceFleet(config(reference={"workers": 2}, limits={"score_seconds": 30.0}), models["policy"])

    async def scenario(fleet):
        await fleet.logprobs(samples(2), fixed=True, group=0)
        ray.kill(fleet._fleet._replicas[0][1])
        began = time.monotonic()
        with pytest.raises(RunError, match="rank 1 of a replica of 2"):
            await fleet.logprobs(samples(2), fixed=True, group=0)
        return time.monotonic() - began

    assert with_fleet(fleet, scenario) < 15
