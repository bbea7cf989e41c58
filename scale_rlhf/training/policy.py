"""The policy: a causal language model, moved by the loss that `ppo.loss` names."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from scale_rlhf.algorithms.aggregation import divisor, token_weights
from scale_rlhf.algorithms.kl import kl_estimate
from scale_rlhf.algorithms.losses import kl_loss, ppo_metrics
from scale_rlhf.algorithms.masking import visible
from scale_rlhf.experience.packing import Pack
from scale_rlhf.experience.sample import Sample
from scale_rlhf.models import loading, lora
from scale_rlhf.models.forward import response_logprobs, response_logprobs_alone
from scale_rlhf.telemetry.spans import recorded
from scale_rlhf.training.batch import Minibatch, TrainingBatch, flat, in_rows, padded, ragged
from scale_rlhf.training.methods import policy_loss
from scale_rlhf.training.off_policy import Drift, importance_weights
from scale_rlhf.training.worker import Numbers, TrainingWorker
from scale_rlhf.weights.manifest import Manifest
from scale_rlhf.weights.publisher import Opening, Publisher, WholeWeights, make_publisher


class Given(NamedTuple):
    """What a loss is taken against: of each sample of a batch, or the rows [samples, tokens] of a pack."""

    old: Sequence[np.ndarray] | torch.Tensor  # the anchor's log-probabilities
    advantages: Sequence[np.ndarray] | torch.Tensor  # weighted
    weights: Sequence[np.ndarray] | torch.Tensor
    reference: Sequence[np.ndarray] | torch.Tensor


class PolicyWorker(TrainingWorker):
    """One rank of the policy."""

    role = "policy"
    publisher: Publisher | None = None

    def load(self, dtype: str) -> nn.Module:
        """The causal language model."""
        return loading.load_causal(self.path, dtype=dtype, **self.model_options)

    @property
    def updates(self) -> int:
        """None while the value model learns alone."""
        return self.config.ppo.steps - self.config.ppo.value_pretraining

    @recorded("log-probabilities")
    def logprobs(self, samples: Sequence[Sample], temperature: float | None = None) -> list[np.ndarray]:
        """The trainer's log-probabilities of the responses: float32 [response tokens] for each sample, in nats.

        temperature: that logits are divided by; None is the one of the rollout.
        """
        heat = self.config.rollout.temperature if temperature is None else temperature
        return self.per_token(samples, lambda pack: response_logprobs_alone(self.engine, pack, heat))

    @recorded("reference")
    def reference_logprobs(self, samples: Sequence[Sample]) -> tuple[list[np.ndarray], float]:
        """`logprobs` of the policy without its adapter, and the seconds that they took."""
        began, heat = time.monotonic(), self.config.rollout.temperature
        with lora.without_adapter(self.engine.module):
            found = self.per_token(samples, lambda pack: response_logprobs_alone(self.engine, pack, heat))
        return found, time.monotonic() - began

    @recorded("update")
    def update(self, batch: TrainingBatch, advantages: list[np.ndarray], version: int) -> Numbers:
        """Make version + 1: epochs over the batch with `ppo.loss`, the ratio against the batch's anchor (`overlap.anchor`).

        Against the engine's log-probabilities the clipped ratio is itself the correction for stale samples. Against the
        policy's own before this update each token is weighted by overlap.correction (decoupled PPO).

        advantages: float32 [response tokens] for each sample. Returns means over all tokens of all epochs: entropy,
        clip_fraction, approximate_kl (nats a token), ratio; with loss, gradient_norm, learning_rate, seconds, tokens, and
        how far the policy was from the engine's log-probabilities before its first step: gap_mean, gap_p99, effective_share.
        Where the penalty is in the loss also kl (nats a token).
        """
        weights = self._weights(batch)
        weighted = [weight * advantage for weight, advantage in zip(weights, advantages, strict=True)]
        given, behaviour = Given(batch.anchor, weighted, weights, batch.reference_logprobs), [s.logprobs for s in batch.samples]
        before, first_step = Drift(), self.engine.global_steps

        def loss(pack: Pack, places: list[int], minibatch: Minibatch) -> tuple[torch.Tensor, dict]:
            logprobs, entropy = self._forward(pack)
            if self.engine.global_steps == first_step:  # these are still the weights of `version`
                before.add(logprobs, [behaviour[place] for place in places])
            rows = Given(*(in_rows(flat(one, places, logprobs.device), pack.lengths) for one in given))
            mask = in_rows(torch.ones_like(logprobs, dtype=torch.bool), pack.lengths)
            value, sums = self._loss(in_rows(logprobs, pack.lengths), rows, mask, minibatch, batch.kl_coefficient)
            return value, sums | {"entropy": entropy.double().sum()}

        numbers = self.optimize(batch.samples, version, loss)
        names = ("clip_fraction", "approximate_kl", "ratio", "entropy", "kl")
        return per_token(numbers, [name for name in names if name in numbers]) | before.metrics()

    def _loss(self, logprobs: torch.Tensor, given: Given, mask: torch.Tensor, minibatch: Minibatch,
              coefficient: float) -> tuple[torch.Tensor, dict]:
        """The pack's share of the minibatch's loss, and sums for metrics. Tensors are [samples, tokens]; coefficient: β."""
        ppo, (of_policy, clipped) = self.config.ppo, policy_loss(self.config.ppo)
        against = (given.old, given.advantages, mask)
        denominator = divisor(minibatch.tokens, minibatch.sequences, ppo.aggregation)
        value = of_policy(logprobs, *against, denominator=denominator)
        sums = ppo_metrics(logprobs, *against, clip_low=ppo.clip_low, clip_high=ppo.clip_high)
        sums["clip_fraction"] = clipped(logprobs, *against).double().sum()
        if ppo.kl_in == "loss" and coefficient:
            value = value + coefficient * kl_loss(
                logprobs, given.old, given.reference, mask, kind=ppo.kl_estimator, weights=given.weights, denominator=denominator)
            sums["kl"] = visible(kl_estimate(logprobs.detach(), given.reference, ppo.kl_estimator), mask).double().sum()
        return value, sums

    def _weights(self, batch: TrainingBatch) -> list[np.ndarray]:
        """What each token counts: its share of the response (ppo.aggregation), times the importance weight where the policy's
        own log-probabilities anchor the loss. A weight is not negative, so that on the advantage weights the clipped loss.
        """
        behaviour = [sample.logprobs for sample in batch.samples]
        mask = padded(behaviour)[1]
        weights = ragged(token_weights(mask, self.config.ppo.aggregation, longest=self.config.rollout.max_response_tokens), mask)
        if batch.proximal is None:
            return weights
        corrections = importance_weights(batch.proximal, behaviour, self.config.overlap)
        return [one * other for one, other in zip(weights, corrections, strict=True)]

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
        model = self.transformer(self.engine.module)
        weights = WholeWeights(model, self.named_weights, lora.adapter(model) if self.section.lora else None)
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
