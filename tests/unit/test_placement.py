"""Waiting for nodes: at the start of a run what is missing is a mistake, later it may come back. Ray's answers are made up."""

import asyncio
from types import SimpleNamespace

import pytest

from scale_rlhf.cluster import placement
from scale_rlhf.cluster.fitting import Node
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.orchestration.deadlines import RoleFailed

CONFIG = RunConfig(policy={"labels": {"role": "training"}})
NODE = Node("10.0.0.1", {"CPU": 16}, {"role": "training"})


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    monkeypatch.setattr(placement, "_POLL", 0.001)
    monkeypatch.setattr(placement, "_group", lambda *arguments, **named: None)


def test_a_run_that_begins_does_not_wait_for_nodes_that_are_not_there(monkeypatch):
    monkeypatch.setattr(placement, "nodes", lambda: [])
    with pytest.raises(RunError, match="the roles cannot be placed:\nrollout 1 × .*no node has that"):
        placement.reserve(CONFIG)


def test_one_that_begins_again_does(monkeypatch):
    found = iter([[], [], [NODE]])
    monkeypatch.setattr(placement, "nodes", lambda: next(found))
    assert {ask.role for ask in placement.reserve(CONFIG, seconds=10.0).asked} >= {"rollout", "policy"}
    with pytest.raises(StopIteration):
        next(found)


def test_what_takes_the_place_of_a_dead_process_waits_for_a_node(monkeypatch):
    answers, asked = iter([False, False, True]), []
    monkeypatch.setattr(placement, "_granted", lambda *place: asked.append(place) or next(answers))
    options = {"scheduling_strategy": SimpleNamespace(placement_group="group", placement_group_bundle_index=3)}
    asyncio.run(placement.until_granted([options, {"num_cpus": 1}], 10.0, "reference replica 0"))
    assert asked == [("group", 3)] * 3
    monkeypatch.setattr(placement, "_granted", lambda *place: False)
    with pytest.raises(RoleFailed, match="reference replica 0: its node is gone, and for 0.01 s"):
        asyncio.run(placement.until_granted([options], 0.01, "reference replica 0"))
