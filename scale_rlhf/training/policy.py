"""The policy: a causal language model, moved by PPO's clipped loss."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from scale_rlhf.algorithms.losses import ppo_metrics, ppo_policy_loss
from scale_rlhf.experience.packing import Pack
from scale_rlhf.experience.sample import Sample
from scale_rlhf.models import loading
from scale_rlhf.models.forward import response_logprobs, response_logprobs_alone
from scale_rlhf.telemetry.spans import recorded
from scale_rlhf.training.batch import TrainingBatch, flat
from scale_rlhf.training.off_policy import Drift, importance_weights
from scale_rlhf.training.worker import Numbers, TrainingWorker
from scale_rlhf.weights.manifest import Manifest
from scale_rlhf.weights.publisher import Opening, Publisher, WholeWeights, make_publisher


class PolicyWorker(TrainingWorker):
    """One rank of the policy."""

    role = "policy"
    publisher: Publisher | None = None

    def load(self, dtype: str) -> nn.Module:
        """The causal language model."""
        return loading.load_causal(self.path, dtype=dtype, **self.model_options)

    @recorded("log-probabilities")
    def logprobs(self, samples: Sequence[Sample], temperature: float | None = None) -> list[np.ndarray]:
        """The trainer's log-probabilities of the responses: float32 [response tokens] for each sample, in nats.

        temperature: that logits are divided by; None is the one of the rollout.
        """
        heat = self.config.rollout.temperature if temperature is None else temperature
        return self.per_token(samples, lambda pack: response_logprobs_alone(self.engine, pack, heat))

    @recorded("update")
    def update(self, batch: TrainingBatch, advantages: list[np.ndarray], version: int) -> Numbers:
        """Make version + 1: PPO's epochs over the batch, the ratio against the batch's anchor (`overlap.anchor`).

        Against the engine's log-probabilities the clipped ratio is itself the correction for stale samples. Against the
        policy's own before this update each token is weighted by overlap.correction (decoupled PPO).

        advantages: float32 [response tokens] for each sample. Returns means over all tokens of all epochs: entropy,
        clip_fraction, approximate_kl (nats a token), ratio; with loss, gradient_norm, learning_rate, seconds, tokens, and
        how far the policy was from the engine's log-probabilities before its first step: gap_mean, gap_p99, effective_share.
        """
        ppo, clips = self.config.ppo, {"clip_low": self.config.ppo.clip_low, "clip_high": self.config.ppo.clip_high}
        behaviour = [sample.logprobs for sample in batch.samples]
        anchor, advantages = batch.anchor, self._weighted(batch, advantages)
        before, first_step = Drift(), self.engine.global_steps

        def loss(pack: Pack, places: list[int], denominator: int) -> tuple[torch.Tensor, dict]:
            logprobs, entropy = self._forward(pack)
            if self.engine.global_steps == first_step:  # these are still the weights of `version`
                before.add(logprobs, [behaviour[place] for place in places])
            old, advantage = flat(anchor, places, logprobs.device), flat(advantages, places, logprobs.device)
            mask = torch.ones_like(logprobs, dtype=torch.bool)
            value = ppo_policy_loss(logprobs, old, advantage, mask, **clips, dual_clip=ppo.dual_clip, denominator=denominator)
            return value, ppo_metrics(logprobs, old, advantage, mask, **clips) | {"entropy": entropy.double().sum()}

        numbers = self.optimize(batch.samples, version, loss)
        return per_token(numbers, ("clip_fraction", "approximate_kl", "ratio", "entropy")) | before.metrics()

    def _weighted(self, batch: TrainingBatch, advantages: list[np.ndarray]) -> list[np.ndarray]:
        """Advantages times the importance weight of each token: a weight is not negative, so that weights the clipped loss."""
        if batch.proximal is None:
            return advantages
        weights = importance_weights(batch.proximal, [sample.logprobs for sample in batch.samples], self.config.overlap)
        return [weight * advantage for weight, advantage in zip(weights, advantages, strict=True)]

    def place(self) -> str:
        """Ray's id of this rank's node."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def open_transport(self, transport: str, tag: str, engines: tuple[list, int], address: tuple[str, int],
                       here: str | None) -> None:
        """Make ready to publish. tag: of this run, in file names. engines: (actors, workers of each). address: where a group
        meets. here: at which engines reach this rank; None, its node's address.
        """
        import ray

        if self.publisher is not None:
            self.publisher.close()
        weights = WholeWeights(self.transformer(self.engine.module), self.named_weights)
        verify = self.config.rollout.dtype if self.config.rollout.verify_weights else None
        opening = Opening(self.rank, self.world, tag, engines, address, here or ray.util.get_node_ip_address(),
                          self.config.limits.publish_seconds, verify)
        self.publisher = make_publisher(transport, weights, opening)

    @recorded("publish")
    def publish(self, version: int) -> Manifest | None:
        """Hand the current weights over as `version`. Returns what this rank wrote; None where the engines have it already."""
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
