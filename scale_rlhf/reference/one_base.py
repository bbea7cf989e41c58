"""The reference where the policy has an adapter: the policy's own ranks with the adapter off, on the one base that there is."""

import time
from collections.abc import Sequence

import numpy as np

from scale_rlhf.experience.sample import Sample
from scale_rlhf.training.group import PolicyGroup


class PolicyWithoutAdapter:
    """What the loop asks of a reference. Ranks answer between their other calls: during an update the answer waits for its end.

    Nothing of it depends on timing: every call is cut and computed by itself. Who fails is the policy.
    """

    def __init__(self, policy: PolicyGroup):
        self.policy = policy
        self.asked: list[tuple[int, int, float, float]] = []  # samples, tokens, seconds of work, seconds until the answer

    async def logprobs(self, samples: Sequence[Sample], *, fixed: bool, group: int) -> list[np.ndarray]:
        """Float32 [response tokens] of every sample, in order. fixed, group: for replicas, and there are none."""
        began = time.monotonic()
        found, busy = await self.policy.reference_logprobs(samples)
        self.asked.append((len(samples), sum(one.tokens for one in samples), busy, time.monotonic() - began))
        return found

    async def metrics(self) -> dict[str, float]:
        """Since the last call: samples, tokens, busy_seconds; and latencies, in which the wait for an update counts."""
        asked, self.asked = self.asked, []
        latencies = [latency for *_, latency in asked] or [0.0]
        names = ("samples", "tokens", "busy_seconds")
        return {name: float(sum(one[place] for one in asked)) for place, name in enumerate(names)} | {
            "latency_mean_seconds": sum(latencies) / len(latencies), "latency_max_seconds": max(latencies)}
