"""Spans, the timeline file, and idle shares that follow from them."""

import json

import numpy as np
import pytest

from scale_rlhf.experience.buffer import Scored
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.orchestration.step_metrics import StepClock, rates, slowest, step_metrics
from scale_rlhf.telemetry.spans import Span, Spans, busy, recorded
from scale_rlhf.telemetry.timeline import Timeline, busy_shares, read_lanes


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_span_is_recorded_also_when_the_work_fails():
    clock = Clock()

    class Worker:
        spans = Spans(clock)

        @recorded("work")
        def work(self, seconds: float) -> float:
            clock.now += seconds
            if seconds > 1:
                raise RuntimeError
            return seconds

    worker = Worker()
    assert worker.work(0.5) == 0.5
    with pytest.raises(RuntimeError):
        worker.work(2.0)
    assert worker.spans.take() == [Span("work", 100.0, 100.5, {}), Span("work", 100.5, 102.5, {})] and not worker.spans.take()


def test_busy_time_counts_overlapping_spans_once():
    spans = [Span("b", 2, 4), Span("a", 0, 3), Span("inside", 2.5, 2.6), Span("late", 6, 9)]
    assert busy(spans, 1, 7) == pytest.approx(3 + 1) and busy([], 0, 1) == 0 and busy(spans, 4.5, 5.5) == 0


def test_the_file_is_chromes_trace_format_finished_or_not(tmp_path):
    path = tmp_path / "timeline.json"
    timeline = Timeline(path)
    timeline.add({"policy/0": [Span("update", 1.0, 2.5, {"version": 3})], "rollout/engine-0": [Span("decode", 0.5, 3.0)]})
    unfinished = read_lanes(path)
    timeline.add({"policy/0": [Span("update", 3.0, 4.0)], "controller": []})
    timeline.close()
    timeline.close()
    events = json.loads(path.read_text())
    assert {event["ph"] for event in events} == {"M", "X"} and all({"name", "pid", "tid"} <= event.keys() for event in events)
    update = next(event for event in events if event["name"] == "update")
    assert (update["ts"], update["dur"], update["args"]) == (1_000_000, 1_500_000, {"version": 3})
    lanes = read_lanes(path)
    assert list(lanes) == ["rollout/engine-0", "policy/0", "controller"] and len(lanes["policy/0"]) == 2
    assert len(unfinished["policy/0"]) == 1
    Timeline(tmp_path / "empty.json").close()
    assert read_lanes(tmp_path / "empty.json") == {}


def test_idle_shares_bubble_and_the_slowest_role():
    lanes = {"rollout/engine-0": [Span("decode", 0, 9)], "rollout/engine-1": [Span("decode", 0, 5)],
             "policy/0": [Span("update", 2, 5)]}
    assert busy_shares(lanes, 0, 10) == pytest.approx({"rollout": 0.7, "policy": 0.3})
    clock = Clock()
    steps = StepClock(clock)
    for event in (steps.admitted, steps.generated, steps.scored):
        event(0)
        clock.now += 1
    with steps.time("wait_batch"):
        clock.now += 2
    numbers, own = steps.step([0], {"rollout/engine-0": [Span("decode", 100, 104)], "policy/0": [Span("update", 103, 105)]})
    assert numbers["time/step"] == 5 and numbers["time/bubble"] == pytest.approx(1.0) and numbers["time/wait_batch"] == 2
    assert numbers["idle/rollout"] == pytest.approx(0.2) and slowest(numbers) == "rollout 80%"
    assert [span.name for span in own] == ["wait_batch"] and slowest({}) == ""


def test_tokens_a_second_are_of_the_time_that_a_role_worked():
    found = rates({"rollout/tokens": 50, "rollout/busy_seconds": 2.0, "policy/tokens": 30, "policy/seconds": 0.5,
                   "reference_server/tokens": 7, "reference_server/busy_seconds": 0.0, "reward_server/busy_seconds": 1.0})
    assert found == {"rollout/tokens_per_second": 25.0, "policy/tokens_per_second": 60.0}


def test_staleness_is_that_of_the_oldest_token():
    def scored(versions):
        one = np.zeros(len(versions), np.float32)
        prompt = Prompt(0, 0, np.zeros(1, np.int32))
        return Scored(Sample(prompt, one.astype(np.int32), one, np.asarray(versions), True), 1.0, one)

    numbers = step_metrics([scored([3, 3]), scored([2, 3]), scored([1, 2, 3]), scored([3])], version=3, kl_coefficient=0.1)
    assert [numbers[f"staleness/share_{age}"] for age in range(3)] == [0.5, 0.25, 0.25]
    assert numbers["staleness/max"] == 2 and numbers["staleness/mean"] == 0.75 and numbers["staleness/spanning_share"] == 0.5
