"""The policy: a causal language model, moved by PPO's clipped loss."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from scale_rlhf.algorithms.losses import ppo_metrics, ppo_policy_loss
from scale_rlhf.experience.packing import Pack
from scale_rlhf.experience.sample import Sample
from scale_rlhf.models import loading
from scale_rlhf.models.forward import response_logprobs
from scale_rlhf.training.batch import TrainingBatch, flat
from scale_rlhf.training.worker import Numbers, TrainingWorker
from scale_rlhf.weights.publisher import Publisher, WholeWeights, make_publisher


class PolicyWorker(TrainingWorker):
    """One rank of the policy."""

    role = "policy"
    publisher: Publisher | None = None

    def load(self, dtype: str) -> nn.Module:
        """The causal language model."""
        return loading.load_causal(self.path, dtype=dtype, **self.model_options)

    def logprobs(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        """The trainer's log-probabilities of the responses: float32 [response tokens] for each sample, in nats."""
        return self.per_token(samples, lambda pack: self._forward(pack)[0])

    def update(self, batch: TrainingBatch, advantages: list[np.ndarray], version: int) -> Numbers:
        """Make version + 1: PPO's epochs over the batch, the ratio against the engine's log-probabilities.

        advantages: float32 [response tokens] for each sample. Returns means over all tokens of all epochs: entropy,
        clip_fraction, approximate_kl (nats a token), ratio; with loss, gradient_norm, learning_rate, seconds, tokens.
        """
        clips = {"clip_low": self.config.ppo.clip_low, "clip_high": self.config.ppo.clip_high}
        behaviour = [sample.logprobs for sample in batch.samples]

        def loss(pack: Pack, places: list[int], denominator: int) -> tuple[torch.Tensor, dict]:
            logprobs, entropy = self._forward(pack)
            old, advantage = flat(behaviour, places, logprobs.device), flat(advantages, places, logprobs.device)
            mask = torch.ones_like(logprobs, dtype=torch.bool)
            value = ppo_policy_loss(
                logprobs, old, advantage, mask, **clips, dual_clip=self.config.ppo.dual_clip, denominator=denominator,
            )
            return value, ppo_metrics(logprobs, old, advantage, mask, **clips) | {"entropy": entropy.double().sum()}

        return per_token(self.optimize(batch.samples, version, loss), ("clip_fraction", "approximate_kl", "ratio", "entropy"))

    def open_transport(self, transport: str, tag: str, engines: tuple[list, int], address: tuple[str, int]) -> None:
        """Make ready to publish. tag: of this run, in file names. engines: (actors, ranks of each). address: where nccl meets."""
        weights = WholeWeights(self.transformer(self.engine.module), self.named_weights)
        self.publisher = make_publisher(transport, weights, self.rank, tag, engines, address)

    def publish(self, version: int) -> dict | None:
        """Hand the current weights over as `version`; rank 0 returns what engines need to load them, if they do it themselves."""
        return self.publisher.publish(version)

    def close(self) -> None:
        """Also removes what the transport left in shared memory."""
        if self.publisher is not None:
            self.publisher.close()
        super().close()

    def _forward(self, pack: Pack) -> tuple[torch.Tensor, torch.Tensor]:
        return response_logprobs(self.engine, pack, self.config.rollout.temperature)


def per_token(numbers: Numbers, names: Sequence[str]) -> Numbers:
    """Sums of these names become means over "tokens"."""
    return numbers | {name: numbers[name] / numbers["tokens"] for name in names}
