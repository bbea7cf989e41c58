"""Advantages without a value model: a batch, its rewards, and the method that `ppo.advantages` names."""

import numpy as np
import torch

from scale_rlhf.algorithms.estimators import Outcome
from scale_rlhf.algorithms.statistics import whiten
from scale_rlhf.config.methods import ADVANTAGES
from scale_rlhf.config.schema import PPOSection
from scale_rlhf.training.batch import TrainingBatch, ragged
from scale_rlhf.training.methods import estimator
from scale_rlhf.training.rewards import batch_rewards
from scale_rlhf.training.worker import Numbers


def critic_free_advantages(batch: TrainingBatch, ppo: PPOSection) -> tuple[list[np.ndarray], Numbers]:
    """Float32 [response tokens] for each sample, and metrics; whitened over the whole batch where the method asks for it.

    Metrics: those of `batch_rewards`, with the advantages' deviation, and the share of responses that say nothing.
    """
    rewards, mask, metrics = batch_rewards(batch, ppo)
    groups = torch.tensor([sample.prompt.group for sample in batch.samples])
    baselines = None if batch.baselines is None else torch.from_numpy(batch.baselines)
    advantages = estimator(ppo)(Outcome(rewards, mask, groups, baselines))
    metrics |= {
        "advantage_deviation": float(advantages[mask].double().std(correction=0)),
        "silent_share": float((advantages == 0).all(-1).double().mean()),
    }
    if baselines is not None:
        metrics["baseline"] = float(baselines.double().mean())
    if ADVANTAGES[ppo.advantages].whitens and ppo.whiten_advantages:
        advantages = whiten(advantages, mask)
    return ragged(advantages, mask), metrics
