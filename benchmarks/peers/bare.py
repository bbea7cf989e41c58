"""The same maths as the policy update in a loop with nothing around it: forward, PPO's loss, backward, clipping, AdamW.

bfloat16 means bfloat16 weights with float32 master weights and float32 sums of gradients, as DeepSpeed has them.
"""

from collections.abc import Sequence

import numpy as np
import torch

from scale_rlhf.algorithms.losses import ppo_policy_loss
from scale_rlhf.config.schema import PolicySection
from scale_rlhf.experience.packing import cut, pack
from scale_rlhf.experience.sample import Sample
from scale_rlhf.models.forward import response_logprobs
from scale_rlhf.models.loading import load_causal


class BareLoop:
    def __init__(self, path: str, dtype: str, section: PolicySection, clip: float):
        self.model = load_causal(path, dtype=dtype).train()
        self.weights = list(self.model.parameters())
        self.mixed = dtype == "bfloat16"
        self.master = [p.detach().float().clone().requires_grad_() for p in self.weights] if self.mixed else self.weights
        self.optimizer = torch.optim.AdamW(
            self.master, lr=section.learning_rate, betas=section.betas, eps=section.epsilon, weight_decay=section.weight_decay)
        self.clips, self.limit = {"clip_low": clip, "clip_high": clip}, section.max_gradient_norm

    def update_packed(self, samples: Sequence[Sample], advantages: Sequence[np.ndarray], budget: int) -> None:
        """One step over packed rows of at most `budget` tokens."""
        count = sum(len(one.response_ids) for one in samples)
        for places in cut([one.tokens for one in samples], budget):
            logprobs, _ = response_logprobs(self.model, pack([samples[place] for place in places]), 1.0)
            self._backward(logprobs, samples, advantages, places, count)
        self._step()

    def update_padded(
        self, samples: Sequence[Sample], advantages: Sequence[np.ndarray], batches: Sequence[Sequence[int]],
    ) -> None:
        """One step over batches that are padded on the right to their longest sample."""
        count = sum(len(one.response_ids) for one in samples)
        for places in batches:
            logprobs = padded_logprobs(self.model, [samples[place] for place in places])
            self._backward(logprobs, samples, advantages, places, count)
        self._step()

    def _backward(self, logprobs: torch.Tensor, samples, advantages, places: Sequence[int], count: int) -> None:
        old, advantages = _joined([samples[p].logprobs for p in places]), _joined([advantages[p] for p in places])
        mask = torch.ones_like(logprobs, dtype=torch.bool)
        ppo_policy_loss(logprobs, old, advantages, mask, **self.clips, denominator=count).backward()
        if self.mixed:
            for master, weight in zip(self.master, self.weights, strict=True):
                master.grad = weight.grad.float() if master.grad is None else master.grad.add_(weight.grad)
                weight.grad = None

    def _step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.master, self.limit)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.mixed:
            with torch.no_grad():
                for master, weight in zip(self.master, self.weights, strict=True):
                    weight.copy_(master)


def padded_logprobs(model: torch.nn.Module, samples: Sequence[Sample]) -> torch.Tensor:
    """Log-probabilities of the responses end to end, [N], from a forward over padded rows.

    No attention mask: padding is on the right, where causal attention never looks, which lets the fast kernel run.
    The head is computed for whole padded rows from the first response position on, as trainers do that pad.
    """
    longest, first = max(one.tokens for one in samples), min(len(one.prompt.token_ids) for one in samples) - 1
    ids = torch.zeros(len(samples), longest, dtype=torch.long)
    for row, one in enumerate(samples):
        ids[row, : one.tokens] = torch.from_numpy(np.concatenate([one.prompt.token_ids, one.response_ids]).astype(np.int64))
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=torch.arange(first, longest - 1)).logits.float()
    found = torch.log_softmax(logits, -1).gather(-1, ids[:, first + 1 :, None])[..., 0]
    starts = [len(one.prompt.token_ids) - 1 - first for one in samples]
    return torch.cat([found[row, start : start + len(one.response_ids)]
                      for row, (one, start) in enumerate(zip(samples, starts, strict=True))])


def sorted_batches(samples: Sequence[Sample], budget: int) -> list[list[int]]:
    """Places in order of length, cut where a padded batch would exceed `budget` tokens."""
    batches: list[list[int]] = []
    for place in sorted(range(len(samples)), key=lambda place: samples[place].tokens):
        if not batches or (len(batches[-1]) + 1) * samples[place].tokens > budget:
            batches.append([])
        batches[-1].append(place)
    return batches


def _joined(parts: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts))
