"""Advantages without a value model: a response against the others to the same prompt."""

import numpy as np
import torch

from scale_rlhf.algorithms.advantages import group_relative
from scale_rlhf.config.schema import PPOSection
from scale_rlhf.training.batch import TrainingBatch, penalised_scores
from scale_rlhf.training.worker import Numbers


def group_advantages(batch: TrainingBatch, ppo: PPOSection) -> tuple[list[np.ndarray], Numbers]:
    """GRPO's advantages, the same on every token of a response: float32 [response tokens] for each sample, and metrics.

    What is compared is score − β·KL of the whole response: the KL penalty is in the reward, as it is with a critic.
    """
    kl = np.asarray([float((logprobs - reference).sum(dtype=np.float64))
                     for logprobs, reference in zip(batch.anchor, batch.reference_logprobs, strict=True)], dtype=np.float32)
    scores = penalised_scores(batch, ppo.missing_end_penalty)
    rewards = scores - batch.kl_coefficient * torch.from_numpy(kl)
    groups = torch.tensor([sample.prompt.group for sample in batch.samples])
    advantages = group_relative(rewards, groups, scale_by_std=ppo.scale_by_std)
    metrics = {
        "kl": float(kl.mean()), "score": float(np.mean(batch.scores)), "score_with_penalty": float(scores.mean()),
        "ended": float(np.mean([sample.ended for sample in batch.samples])),
        "advantage_deviation": float(advantages.double().std(correction=0)),
    }
    spread = [np.full(len(sample.response_ids), float(a), dtype=np.float32)
              for sample, a in zip(batch.samples, advantages, strict=True)]
    return spread, metrics
