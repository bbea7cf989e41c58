"""What the controller sees of a reward, whatever stands behind it."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

from scale_rlhf.errors import RunError
from scale_rlhf.experience.sample import Sample
from scale_rlhf.orchestration.health import Health
from scale_rlhf.telemetry.spans import Span

SHOWN = 200  # characters of a wrong answer that a message quotes


class ScoringFailed(RunError):
    """These samples have no score; others may have. Says which reward, what happened at the last try, how many there were.

    Who asked may leave the samples out and go on, as long as it does not happen too often in a row. What no other try and
    no other sample can mend (a wrong name, a refused password) is a ConfigError or a plain RunError, and stops the run.
    """


class RewardFleet(Protocol):
    """One score a sample. Used from one asyncio loop. health: of its processes, once started; None where it has none."""

    health: Health | None

    async def start(self, options: Sequence[Sequence[dict]] | None = None, probe: Sequence[Sample] = ()) -> None:
        """Start its processes, and score `probe`, so that a reward that cannot work fails before the run does.

        options: keyword arguments of Ray's `.options(…)` of every process, [replica][worker]; None: from the
        configuration. Raises ConfigError or RunError.
        """

    async def score(self, samples: Sequence[Sample], *, fixed: bool, group: int) -> list[float]:
        """Scores in the order of the samples. fixed: by replica `group` modulo replicas, mixed with nothing else.

        Raises ScoringFailed when there is no answer in time, or one that is not a finite number a sample, also at the
        last of `reward.retries` further tries; ConfigError or RunError when no further try could help.
        """

    async def metrics(self) -> dict[str, float]:
        """Since the last call: samples, busy_seconds, latency_mean_seconds, latency_max_seconds and more."""

    async def spans(self) -> dict[str, list[Span]]:
        """What it did since the last call, by lane of the timeline."""

    def close(self) -> None:
        """End its processes; safe to call twice."""


def finite_scores(returned: Any, count: int, who: str) -> list[float]:
    """`returned` as `count` finite numbers: a list, a tuple, an array or a tensor. Raises ScoringFailed that quotes it."""
    expected = f"expected a list of {count} finite numbers, one a sample"
    if hasattr(returned, "tolist"):  # arrays and tensors
        returned = returned.tolist()
    if not isinstance(returned, (list, tuple)):
        raise ScoringFailed(f"{who}: {expected}; it returned {_quoted(returned)} ({type(returned).__name__})")
    if len(returned) != count:
        raise ScoringFailed(f"{who}: {expected}; it returned {len(returned)}: {_quoted(returned)}")
    for place, score in enumerate(returned):
        if not _is_number(score):
            raise ScoringFailed(f"{who}: {expected}; number {place} is {_quoted(score)} ({type(score).__name__})")
    return [float(score) for score in returned]


def _is_number(score: Any) -> bool:
    try:
        return not isinstance(score, (str, bytes)) and math.isfinite(float(score))
    except (TypeError, ValueError, OverflowError):
        return False


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
