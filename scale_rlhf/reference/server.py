"""The KL server: log-probabilities that the frozen reference model gives to responses (Ziegler et al. 2019, eq. 2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from scale_rlhf.cluster.device import device
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.experience.packing import in_rows, pack
from scale_rlhf.experience.sample import Sample, step_of
from scale_rlhf.models.forward import response_logprobs_alone
from scale_rlhf.models.frozen.fleet import FrozenFleet
from scale_rlhf.models.frozen.work import smallest_sample
from scale_rlhf.models.loading import load_causal
from scale_rlhf.orchestration.health import Budget, Health
from scale_rlhf.telemetry import logs
from scale_rlhf.telemetry.spans import Span


@dataclass(frozen=True)
class ResponseLogprobs:
    """Log-probabilities of response tokens, logits divided by the sampling temperature as in generation."""

    path: str
    dtype: str
    attention: str
    trust_remote_code: bool
    temperature: float

    def load(self) -> nn.Module:
        return load_causal(self.path, dtype=self.dtype, attention=self.attention, trust_remote_code=self.trust_remote_code)

    def prepare(self, samples: Sequence[Sample]) -> list[Sample]:
        logs.at_step(step_of(samples))
        return list(samples)

    def compute(self, model: nn.Module, items: Sequence[Sample]) -> list[np.ndarray]:
        packed = pack(items, in_rows(self.attention))
        logprobs = response_logprobs_alone(model, packed.to(device()), self.temperature)
        return [part.numpy() for part in torch.split(logprobs.float().cpu(), packed.lengths)]

    def filler(self) -> Sample:
        return smallest_sample()


class ReferenceFleet:
    """Replicas of the reference model, as the controller sees them. model: folder or hub name."""

    def __init__(self, config: RunConfig, model: str, budget: Budget | None = None, namespace: str | None = None):
        section = config.reference
        work = ResponseLogprobs(
            model, section.dtype, config.model.attention, config.model.trust_remote_code, config.rollout.temperature,
        )
        self._fleet = FrozenFleet("reference", work, section, config.limits, budget, namespace)

    async def start(self, options: Sequence[Sequence[dict]] | None = None) -> None:
        """Start and load. options: of each process, [replica][worker], for Ray; None: from the configuration."""
        await self._fleet.start(options)

    @property
    def health(self) -> Health:
        """Of the replicas; once started."""
        return self._fleet.health

    @property
    def parameters(self) -> list[list[int]]:
        """Parameters that every process holds, by replica and rank."""
        return self._fleet.parameters

    async def logprobs(self, samples: Sequence[Sample], *, fixed: bool, group: int) -> list[np.ndarray]:
        """Float32 [response tokens] of every sample, in order. fixed, group: see FrozenFleet.compute."""
        return await self._fleet.compute(samples, fixed=fixed, group=group, what="log-probabilities")

    async def metrics(self) -> dict[str, float]:
        """Since the last call: samples, tokens, busy_seconds, latencies, batch_fill, queue_max_samples."""
        return await self._fleet.metrics()

    async def spans(self) -> dict[str, list[Span]]:
        """What each replica did since the last call, by lane of the timeline."""
        return await self._fleet.spans()

    def close(self) -> None:
        """End its processes."""
        self._fleet.close()
