"""What is recorded reaches Ray as a gauge, a counter or a histogram, and gauges are set again: Ray forgets them otherwise."""

import sys
from types import SimpleNamespace

import pytest

from scale_rlhf.telemetry import instruments
from scale_rlhf.telemetry.sinks import RayMetrics


class Metric:
    """Any of Ray's three."""

    def __init__(self, told: list, name: str):
        self.told, self.name = told, name

    def __getattr__(self, how: str):
        return lambda value, tags: self.told.append((how, self.name, value, tags))


@pytest.fixture
def told(monkeypatch) -> list:
    """(set, inc or observe; name; value; labels), in order; Ray is said to be there."""
    calls: list = []
    monkeypatch.setattr(instruments, "_instrument", lambda name: Metric(calls, name))
    monkeypatch.setattr(instruments, "_set", {})
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setenv("SCALE_RLHF_RUN", "toy")
    return calls


def test_each_kind_is_told_in_its_way(told):
    instruments.record("reward_score", 1)
    instruments.record("restarts", 2, role="rollout")
    instruments.record("weights_stopped_seconds", 0.5)
    assert told == [("set", "reward_score", 1.0, {"run": "toy"}), ("inc", "restarts", 2.0, {"run": "toy", "role": "rollout"}),
                    ("observe", "weights_stopped_seconds", 0.5, {"run": "toy"})]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_what_is_no_number_is_left_out(told, value):
    instruments.record("reward_score", value)
    assert told == []


def test_a_counter_that_stays_is_not_told(told):
    instruments.record_line("reward_server/failed_tries", 0, "ppo")
    instruments.record_line("reward_server/failed_tries", 3, "ppo")
    assert told == [("inc", "reward_failed_tries", 3.0, {"run": "toy", "role": "reward"})]


def test_gauges_are_set_again_to_their_last_value_and_nothing_else_is(told):
    for value in (1.0, 2.0):
        instruments.record("reward_score", value)
        instruments.record("up", value, role="policy", replica="0")
    instruments.record("restarts", 1, role="run")
    told.clear()
    instruments.refresh()
    assert told == [("set", "reward_score", 2.0, {"run": "toy"}),
                    ("set", "up", 2.0, {"run": "toy", "role": "policy", "replica": "0"})]


@pytest.mark.parametrize("ray", [None, SimpleNamespace(), SimpleNamespace(is_initialized=lambda: False)])
def test_without_ray_or_while_it_is_imported_nothing_happens(told, monkeypatch, ray):
    monkeypatch.setitem(sys.modules, "ray", ray)
    instruments.record("reward_score", 1.0)
    instruments.refresh()
    assert told == []


def test_an_age_that_no_sample_has_any_more_is_0(told):
    sink = RayMetrics()
    sink.begin("ppo", 10)
    sink.log("ppo", 1, {"staleness/share_0": 0.5, "staleness/share_2": 0.5})
    sink.log("ppo", 2, {"staleness/share_0": 1.0})
    last = {labels["age"]: value for _, name, value, labels in told if name == "staleness_share"}
    assert last == {"0": 1.0, "2": 0.0}


def test_the_pace_of_a_stage(told):
    now = [100.0]
    sink = RayMetrics(clock=lambda: now[0])
    sink.begin("sft", None)
    sink.begin("ppo", 10)
    now[0] = 107.0
    sink.log("ppo", 4, {})
    sink.log("evaluate", 1, {"reward/score_mean": 9.0})  # about steps long made
    last = {(name, labels.get("stage")): value for _, name, value, labels in told}
    assert last["step", "ppo"] == 4 and last["steps", "ppo"] == 10 and last["step_seconds", None] == 7.0
    assert last["step_timestamp_seconds", None] == 107.0 and ("reward_score", None) not in last
    assert last["stage_running", "sft"] == 0 and last["stage_running", "ppo"] == 1
