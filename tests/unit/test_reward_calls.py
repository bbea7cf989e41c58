"""How busy a reward function or service was, also where it never rests."""

import time

import pytest

from scale_rlhf.reward.calls import Calls
from scale_rlhf.telemetry.spans import busy


def test_calls_that_overlap_without_a_rest_are_busy_all_the_time():
    calls, began = Calls(), time.time()
    first = calls.one(4)
    first.__enter__()
    for _ in range(3):  # the next is always there before the last has ended
        second = calls.one(4)
        second.__enter__()
        time.sleep(0.03)
        first.__exit__(None, None, None)
        first = second
    spans, taken, now = calls.take_spans(), calls.take(), time.time()
    assert busy(spans, began, now) == pytest.approx(now - began, rel=0.1)
    assert taken["busy_seconds"] == pytest.approx(now - began, rel=0.1) and taken["samples"] == 12
    time.sleep(0.02)
    first.__exit__(None, None, None)
    rest = time.time() - now
    assert sum(span.seconds for span in calls.take_spans()) == pytest.approx(rest, rel=0.1, abs=0.005)  # nothing twice
    assert calls.take()["busy_seconds"] == pytest.approx(rest, rel=0.1, abs=0.005)


def test_rests_are_no_work():
    calls = Calls()
    with calls.one(1):
        time.sleep(0.02)
    time.sleep(0.05)
    assert calls.take()["busy_seconds"] == pytest.approx(0.02, abs=0.01)
    assert calls.take_spans()[0].seconds == pytest.approx(0.02, abs=0.01) and calls.take_spans() == []
