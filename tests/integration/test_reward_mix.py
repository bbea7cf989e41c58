"""Several rewards as they run: a learned one and functions, each in processes of its own."""

import asyncio

import pytest

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError
from scale_rlhf.reward.make import make_reward
from tests.tiny import samples, tiny_classifier, tiny_policy

FORM = "scale_rlhf.reward.verifiable.form:matches"
SMALL = {"cpus": 0.5}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return str(tiny_policy(folder / "policy")), str(tiny_classifier(folder / "reward"))


def scored(section: dict, policy: str, batch, moments=None):
    reward = make_reward(RunConfig(reward=section), model=None, policy=policy, namespace="mix")
    reward.moments = moments or {}

    async def scenario():
        await reward.start(probe=batch[:2])
        scores = await reward.score(batch, fixed=True, group=0)
        return scores, await reward.metrics(), await reward.spans(), reward.health.names

    try:
        return asyncio.run(scenario())
    finally:
        reward.close()


def test_a_model_and_two_functions_are_one_reward(cluster, models):
    policy, model = models
    batch = samples(6)
    alone, *_ = scored({"model": model, "clip": [-1e9, 1e9], **SMALL}, policy, batch)
    mix = {
        "liked": {"model": model, "normalise": 2, "clip": [-0.5, 0.5], "weight": 3.0, **SMALL},
        "some": {"function": FORM, "arguments": {"pattern": ".+"}, **SMALL},
        "empty": {"function": FORM, "arguments": {"pattern": ""}, "weight": -2.0, **SMALL},
    }
    scores, metrics, lanes, names = scored({"mix": mix}, policy, batch, moments={"liked": (alone[0], 2.0)})
    some, empty = metrics["some/raw_mean"], metrics["empty/raw_mean"]
    assert some + empty == pytest.approx(1.0)  # a response is empty, or it is not
    liked = [min(max((score - alone[0]) / 2.0, -0.5), 0.5) for score in alone]
    assert sum(scores) == pytest.approx(3 * sum(liked) + 6 * (some - 2 * empty), abs=1e-5)
    assert metrics["liked/raw_mean"] == pytest.approx(sum(alone) / 6, abs=1e-6) and metrics["samples"] == 6
    assert set(names) == {"reward/liked-0", "reward/some-0", "reward/empty-0"} and {"reward/liked-0"} < set(lanes)


def test_a_wrong_argument_stops_the_start(cluster, models):
    section = {"mix": {"form": {"function": FORM, "arguments": {"pattern": "("}, **SMALL}}}
    with pytest.raises(ConfigError, match="reward.arguments.pattern: not a regular expression"):
        scored(section, models[0], samples(2))
