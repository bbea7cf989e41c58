"""What each token of a batch is rewarded with, for advantages of every kind."""

import numpy as np
import torch

from scale_rlhf.algorithms.rewards import token_rewards
from scale_rlhf.config.schema import PPOSection
from scale_rlhf.training.batch import TrainingBatch, padded, penalised_scores


def batch_rewards(batch: TrainingBatch, ppo: PPOSection) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """(rewards float32 [B, longest response], mask, metrics). The KL penalty is in them with ppo.kl_in: reward.

    Metrics: kl (k1 with the anchor's log-probabilities, nats a response), score, score_with_penalty, ended.
    """
    logprobs, mask = padded(batch.anchor)
    reference, _ = padded(batch.reference_logprobs)
    scores = penalised_scores(batch, ppo.missing_end_penalty)
    coefficient = batch.kl_coefficient if ppo.kl_in == "reward" else 0.0
    rewards = token_rewards(logprobs, reference, scores, mask, coefficient=coefficient, kind=ppo.kl_estimator)
    return rewards, mask, {
        "kl": float(((logprobs - reference) * mask).double().sum(-1).mean()),
        "score": float(np.mean(batch.scores)), "score_with_penalty": float(scores.double().mean()),
        "ended": float(np.mean([sample.ended for sample in batch.samples])),
    }
