"""Whoever waits says for whom, for what and how long."""

import asyncio

import pytest

from scale_rlhf.errors import DataError, RunError
from scale_rlhf.orchestration.deadlines import all_within, within


async def after(seconds, value=None, error=None):
    await asyncio.sleep(seconds)
    if error:
        raise error
    return value


def test_in_time():
    assert asyncio.run(within(after(0, 7), 5, "value rank 0", "update")) == 7
    assert asyncio.run(all_within([after(0.02, 1), after(0, 2)], 5, "value", "update")) == [1, 2]


def test_late():
    with pytest.raises(RunError, match=r"value rank 1: update of version 3 did not end within 0.05 s"):
        asyncio.run(all_within([after(0), after(10)], 0.05, "value", "update of version 3"))


def test_the_first_failure_ends_the_wait():
    with pytest.raises(RunError, match="policy rank 0: loading failed: ZeroDivisionError: boom"):
        waits = all_within([after(0, error=ZeroDivisionError("boom")), after(60)], 60, "policy", "loading")
        asyncio.run(asyncio.wait_for(waits, 5))


def test_errors_for_the_user_travel_as_they_are():
    with pytest.raises(DataError, match="^rows.jsonl:3$"):
        asyncio.run(within(after(0, error=DataError("rows.jsonl:3")), 5, "reward", "scoring"))
