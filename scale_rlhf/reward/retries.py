"""Trying again: the same for functions and services, and the same at every run, as nothing in it is left to chance."""

import asyncio
from collections.abc import Awaitable, Callable

from scale_rlhf.config.schema import RewardSection
from scale_rlhf.reward.calls import Calls
from scale_rlhf.reward.interface import ScoringFailed

LONGEST_PAUSE = 60.0  # seconds


async def with_retries(attempt: Callable[[], Awaitable[list[float]]], section: RewardSection, calls: Calls) -> list[float]:
    """What the first attempt gives that does not raise ScoringFailed; any other error ends it at once.

    Raises ScoringFailed after 1 + reward.retries attempts, with what happened at the last one. Pauses double from
    reward.retry_seconds on, without jitter: the callers are the scoring groups of one run, few and apart already.
    """
    attempts = section.retries + 1
    for number in range(attempts):
        try:
            return await attempt()
        except ScoringFailed as error:
            last = error
        calls.failed(final=number + 1 == attempts)
        if number + 1 < attempts:
            await asyncio.sleep(min(section.retry_seconds * 2**number, LONGEST_PAUSE))
    raise ScoringFailed(f"{last} (attempt {attempts} of {attempts})") from last
