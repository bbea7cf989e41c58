"""What can never be placed is said before anything is asked of Ray: who, on which nodes, and what would help."""

import pytest

from scale_rlhf.cluster.fitting import Node, misfits
from scale_rlhf.config.resources import Ask, asks
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.config.unused import refused

NODES = [
    Node("10.0.0.1", {"CPU": 16, "GPU": 8}, {"role": "training"}),
    Node("10.0.0.2", {"CPU": 16, "GPU": 8}, {"role": "training"}),
    Node("10.0.0.3", {"CPU": 8, "GPU": 4, "fast": 1}, {"role": "rollout", "ray.io/node-id": "abc"}),
]


def ask(role="policy", processes=1, cpus=1.0, gpus=1.0, labels=None, resources=None):
    return Ask(role, processes, cpus, gpus, resources or {}, labels or {})


@pytest.mark.parametrize("asked", [
    [ask(processes=20)],
    [ask(processes=16, labels={"role": "training"}), ask("rollout", 2, gpus=2.0, labels={"role": "rollout"})],
    [ask(processes=16, gpus=0.5), ask("value", 16, gpus=0.5)],
    [ask("rollout", resources={"fast": 1.0})],
    [ask("reward", processes=0, labels={"role": "nowhere"})],
])
def test_what_fits_passes(asked):
    assert list(misfits(asked, NODES)) == []


@pytest.mark.parametrize(("asked", "says"), [
    ([ask(processes=21)], "policy 21 × (1 CPUs, 1 GPUs): there is room for 20"),
    ([ask(gpus=16.0)], "policy 1 × (1 CPUs, 16 GPUs): no node has that for even one of them"),
    ([ask("rollout", 3, gpus=2.0, labels={"role": "rollout"})], "on nodes with role=rollout: there is room for 2"),
    ([ask(labels={"role": "trainer"})], "Start nodes with `ray start --labels role=trainer`, or change policy.labels"),
    ([ask("rollout", 2, resources={"fast": 1.0})], "rollout 2 × (1 CPUs, 1 GPUs, 1 fast): there is room for 1"),
    ([ask(processes=12), ask("value", 12)], "together 24 GPUs, and 10.0.0.1, 10.0.0.2, 10.0.0.3 have 20"),
    ([ask(processes=12, labels={"role": "training"}), ask("value", 6, labels={"role": "training"}), ask("rollout", 1)],
     "together 18 GPUs, and 10.0.0.1, 10.0.0.2 have 16"),
])
def test_what_does_not_fit_is_said_with_what_there_is(asked, says):
    (said,) = misfits(asked, NODES)
    assert says in said and "10.0.0.3 (8 CPUs, 4 GPUs; role=rollout)" in said


def test_engines_ask_for_all_their_ranks_on_one_node():
    config = RunConfig(rollout={"engines": {"min": 2, "max": 5}, "tensor_parallel": 4, "gpus": 1, "cpus": 2,
                                "labels": {"role": "rollout"}, "placement": "spread"})
    (rollout,) = (one for one in asks(config, "ppo") if one.role == "rollout")
    assert (rollout.processes, rollout.cpus, rollout.gpus, rollout.placement) == (2, 8, 4, "spread")
    assert str(rollout) == "rollout 2 × (8 CPUs, 4 GPUs) on nodes with role=rollout"


@pytest.mark.parametrize("sections", [
    {"rollout": {"engines": {"min": 1, "max": 2}, "placement": "spread"}},
    {"reward": {"url": "https://host/score", "labels": {"role": "scoring"}}},
])
def test_placing_what_nobody_places_is_refused(sections):
    assert len(list(refused(RunConfig.model_validate(sections)))) == 1
