"""Numbers of a step: of its samples, and of where its time went."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from scale_rlhf.experience.buffer import Scored


def step_metrics(batch: Sequence[Scored], version: int, kl_coefficient: float) -> dict[str, float]:
    """Of the batch that `version` is trained on. KL in nats a response: mean over samples of the sum over tokens."""
    scores = np.asarray([one.score for one in batch])
    kl = np.asarray([float((one.sample.logprobs - one.reference_logprobs).sum(dtype=np.float64)) for one in batch])
    lengths = np.asarray([len(one.sample.response_ids) for one in batch])
    staleness = np.asarray([version - int(one.sample.versions.min()) for one in batch])
    return {
        "reward/score_mean": float(scores.mean()), "reward/score_std": float(scores.std()),
        "reward/total_mean": float((scores - kl_coefficient * kl).mean()),
        "kl/reference_mean": float(kl.mean()), "kl/coefficient": kl_coefficient,
        "response/tokens_mean": float(lengths.mean()),
        "response/ended_share": float(np.mean([one.sample.ended for one in batch])),
        "staleness/max": float(staleness.max()), "tokens/step": float(lengths.sum()),
    }


class StepClock:
    """Seconds of a step by role, and when each sample was admitted, generated and scored."""

    def __init__(self, clock=time.monotonic):
        self.clock = clock
        self.spans: dict[str, float] = {}
        self.events: dict[str, dict[int, float]] = {"admitted": {}, "generated": {}, "scored": {}}
        self.last = clock()

    def admitted(self, index: int) -> None:
        self.events["admitted"][index] = self.clock()

    def generated(self, index: int) -> None:
        self.events["generated"][index] = self.clock()

    def scored(self, index: int) -> None:
        self.events["scored"][index] = self.clock()

    @contextmanager
    def time(self, what: str) -> Iterator[None]:
        started = self.clock()
        try:
            yield
        finally:
            self.spans[what] = self.spans.get(what, 0.0) + self.clock() - started

    def step(self, indices: Sequence[int]) -> dict[str, float]:
        """Close the step that trained these samples. `score_wait` is the wait after the last of them was generated."""
        now = self.clock()
        admitted, generated, scored = (
            [self.events[name].pop(index) for index in indices] for name in ("admitted", "generated", "scored"))
        taken = {f"time/{what}": seconds for what, seconds in self.spans.items()} | {
            "time/step": now - self.last, "time/generate": max(generated) - min(admitted),
            "time/score_wait": max(0.0, max(scored) - max(generated)),
        }
        self.spans, self.last = {}, now
        return taken
