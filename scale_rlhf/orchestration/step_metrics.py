"""Numbers of a step: of its samples, of where its time went, and of who kept it waiting."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from scale_rlhf.experience.buffer import Scored
from scale_rlhf.telemetry.spans import Span, Spans
from scale_rlhf.telemetry.timeline import busy_shares


def step_metrics(batch: Sequence[Scored], version: int, kl_coefficient: float) -> dict[str, float]:
    """Of the batch that `version` is trained on. KL in nats a response: mean over samples of the sum over tokens.

    A sample's staleness is `version` less that of its oldest token; staleness/share_N is the share of samples with N.
    """
    scores = np.asarray([one.score for one in batch])
    kl = np.asarray([float((one.sample.logprobs - one.reference_logprobs).sum(dtype=np.float64)) for one in batch])
    lengths = np.asarray([len(one.sample.response_ids) for one in batch])
    staleness = np.asarray([version - int(one.sample.versions.min()) for one in batch])
    spanning = np.asarray([one.sample.versions.min() != one.sample.versions.max() for one in batch])
    return {
        "reward/score_mean": float(scores.mean()), "reward/score_std": float(scores.std()),
        "reward/total_mean": float((scores - kl_coefficient * kl).mean()),
        "kl/reference_mean": float(kl.mean()), "kl/coefficient": kl_coefficient,
        "response/tokens_mean": float(lengths.mean()),
        "response/ended_share": float(np.mean([one.sample.ended for one in batch])),
        "staleness/max": float(staleness.max()), "staleness/mean": float(staleness.mean()),
        "staleness/spanning_share": float(spanning.mean()), "tokens/step": float(lengths.sum()),
    } | {f"staleness/share_{age}": float((staleness == age).mean()) for age in range(int(staleness.max()) + 1)}


class StepClock:
    """Seconds of a step by what the controller waited for, and when each sample was admitted, generated and scored."""

    def __init__(self, clock=time.time):
        self.clock = clock
        self.spans = Spans(clock)
        self.events: dict[str, dict[int, float]] = {"admitted": {}, "generated": {}, "scored": {}}
        self.last = clock()
        self.noted = 0  # moments noted so far: it counts up while anything goes on

    def admitted(self, index: int) -> None:
        self._note("admitted", index)

    def generated(self, index: int) -> None:
        self._note("generated", index)

    def scored(self, index: int) -> None:
        self._note("scored", index)

    def _note(self, what: str, index: int) -> None:
        self.events[what][index] = self.clock()
        self.noted += 1

    def forget(self, index: int) -> None:
        """A sample that will be in no step."""
        for events in self.events.values():
            events.pop(index, None)

    def went_through(self, index: int) -> None:
        """A sample came with the state that the run goes on from."""
        self.admitted(index), self.generated(index), self.scored(index)

    @contextmanager
    def time(self, what: str) -> Iterator[None]:
        with self.spans.span(what):
            yield

    def step(self, indices: Sequence[int], lanes: Mapping[str, Sequence[Span]]) -> tuple[dict[str, float], list[Span]]:
        """Close the step that trained these samples. lanes: what every actor did since the last one.

        Returns metrics, and the controller's own spans for the timeline. time/score_wait is the wait after the last of the
        samples was generated. idle/ROLE is the share of the step in which a role had nothing to do; time/bubble what the
        step took beyond the busy time of its slowest role: 0 where that one never waited.
        """
        now = self.clock()
        admitted, generated, scored = (
            [self.events[name].pop(index) for index in indices] for name in ("admitted", "generated", "scored"))
        own = self.spans.take()
        times: dict[str, float] = {}
        for span in own:
            times[f"time/{span.name}"] = times.get(f"time/{span.name}", 0.0) + span.seconds
        shares = busy_shares(lanes, self.last, now)
        step = now - self.last
        self.last = now
        return times | {f"idle/{role}": 1.0 - share for role, share in shares.items()} | {
            "time/step": step, "time/generate": max(generated) - min(admitted),
            "time/score_wait": max(0.0, max(scored) - max(generated)),
            "time/bubble": step * (1.0 - max(shares.values(), default=1.0)),
        }, own


def rates(metrics: Mapping[str, float]) -> dict[str, float]:
    """Tokens a second of each role while it worked, ROLE/tokens_per_second; none for a role that counts no tokens."""
    counts = {role: (f"{role}/tokens", f"{role}/busy_seconds") for role in ("rollout", "reward_server", "reference_server")}
    counts |= {"policy": ("policy/tokens", "policy/seconds"), "value": ("value/update_tokens", "value/update_seconds")}
    return {f"{role}/tokens_per_second": metrics[tokens] / metrics[seconds] for role, (tokens, seconds) in counts.items()
            if tokens in metrics and metrics.get(seconds, 0) > 0}


def slowest(metrics: Mapping[str, float]) -> str:
    """The role that was busy for the largest share of a step, and that share, as in "policy 83 %"."""
    idle = {key.removeprefix("idle/"): share for key, share in metrics.items() if key.startswith("idle/")}
    if not idle:
        return ""
    role = min(idle, key=idle.get)
    return f"{role} {1 - idle[role]:.0%}"
