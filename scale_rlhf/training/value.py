"""The value model: what reward is still to come from each token on; and the advantages that follow from it."""

import time

import numpy as np
import torch
from torch import nn

from scale_rlhf.algorithms.advantages import generalized_advantage_estimation
from scale_rlhf.algorithms.losses import value_loss
from scale_rlhf.algorithms.statistics import explained_variance, explained_variance_moments, whiten
from scale_rlhf.experience.packing import Pack
from scale_rlhf.models import loading
from scale_rlhf.models.forward import response_values
from scale_rlhf.telemetry.spans import recorded
from scale_rlhf.training.batch import Minibatch, TrainingBatch, flat, padded, ragged
from scale_rlhf.training.policy import per_token
from scale_rlhf.training.rewards import batch_rewards
from scale_rlhf.training.worker import Numbers, TrainingWorker


class ValueWorker(TrainingWorker):
    """One rank of the value model."""

    role = "value"

    def load(self, dtype: str) -> nn.Module:
        """A scalar head on the reward model's or the policy's transformer."""
        return loading.load_scalar(self.path, dtype=dtype, seed=self.config.run.seed, **self.model_options)

    @recorded("values")
    def prepare(self, batch: TrainingBatch) -> tuple[list[np.ndarray], Numbers]:
        """Values, rewards, advantages and returns of a batch, by the weights before the update.

        Every rank computes its share of the values and then holds all of them, so moments are those of the whole
        global batch. Returns, taken before whitening, are kept for `update`. Gives the advantages, float32
        [response tokens] for each sample, and metrics: kl (nats a response), scores, returns, values, value error.
        """
        started, ppo = time.perf_counter(), self.config.ppo
        old = self.per_token(batch.samples, lambda pack: response_values(self.engine, pack))
        values, mask = padded(old)
        rewards, _, rewarded = batch_rewards(batch, ppo)
        advantages, returns = generalized_advantage_estimation(rewards, values, mask, gamma=ppo.gamma, lam=ppo.lam)
        self.old_values, self.returns = old, ragged(returns, mask)
        metrics = _metrics(values, returns, advantages, mask) | rewarded | {"seconds": time.perf_counter() - started}
        if ppo.whiten_advantages:
            advantages = whiten(advantages, mask)
        return ragged(advantages, mask), metrics

    @recorded("update")
    def update(self, batch: TrainingBatch, version: int) -> Numbers:
        """The clipped value loss against the values and returns of the last `prepare`, which must be of this batch.

        Returns loss, value_error (mean of (V − R)², before each step), gradient_norm, learning_rate, seconds, tokens.
        """

        def loss(pack: Pack, places: list[int], minibatch: Minibatch) -> tuple[torch.Tensor, dict]:
            values = response_values(self.engine, pack)
            old, returns = flat(self.old_values, places, values.device), flat(self.returns, places, values.device)
            mask = torch.ones_like(values, dtype=torch.bool)
            value = value_loss(values, old, returns, mask, clip=self.config.ppo.value_clip, denominator=minibatch.tokens)
            error = (values.detach() - returns).double().square().sum()
            return value, {"value_error": error, "tokens": mask.double().sum()}

        return per_token(self.optimize(batch.samples, version, loss), ("value_error",))


def _metrics(values: torch.Tensor, returns: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor) -> Numbers:
    """Before the update: means over tokens, and the share of the returns' variance that the values explain."""
    return {
        "explained_variance": explained_variance(explained_variance_moments(values, returns, mask)),
        "value_error": float((values - returns)[mask].double().square().mean()),
        "value": float(values[mask].double().mean()), "return": float(returns[mask].double().mean()),
        "advantage_deviation": float(advantages[mask].double().std(correction=0)),
    }
