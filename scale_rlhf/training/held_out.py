"""What a supervised stage is measured by, on rows it never trained on, shared out over its workers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset

from scale_rlhf.config.supervised import SupervisedSection
from scale_rlhf.training.judged_trainer import padded
from scale_rlhf.training.reward_quality import Judged, quality


def measure(trainer, kind: str, rows: Dataset, section: SupervisedSection) -> dict[str, Any]:
    """What the model in training does on rows that it does not train on; {} where there are none.

    trainer: of TRL; all ranks call together. `language`: held_out_loss (nats a labelled token) and perplexity. Reward
    models: see reward_quality.quality. `dpo`: accuracy, margin (mean of β times the difference of the log-ratios) and pairs.
    `kto`: the same of every good answer beside every bad one.
    """
    if len(rows) == 0:
        return {}
    trainer.model.eval()
    try:
        with torch.no_grad():
            if kind in ("reward", "judged"):
                return quality(_judged(trainer, rows, section.microbatch), section)
            return {"language": _language, "dpo": _preferred, "kto": _good_and_bad}[kind](trainer, rows, section.microbatch)
    finally:
        trainer.model.train()
        if kind != "judged":  # of the others TRL keeps measures, which nothing else would empty
            trainer._metrics["eval"].clear()


def _language(trainer, rows: Dataset, microbatch: int) -> dict[str, float]:
    total = torch.zeros(2, dtype=torch.float64)
    for batch, weight in _shares(rows, microbatch):
        inputs = trainer._prepare_inputs(trainer.data_collator(batch))
        tokens = int((inputs["labels"][:, 1:] != -100).sum())
        loss = float(trainer.compute_loss(trainer.model_wrapped, inputs))  # TRL's mean over those tokens
        total += weight * torch.tensor([loss * tokens, tokens], dtype=torch.float64)
    parts = _gathered(total)
    loss = float(sum(part[0] for part in parts) / sum(part[1] for part in parts))
    return {"held_out_loss": loss, "perplexity": math.exp(loss)}


def _judged(trainer, rows: Dataset, microbatch: int) -> list[Judged]:
    found = []
    for batch, weight in _shares(rows, microbatch):
        inputs = trainer._prepare_inputs(padded(batch, trainer.processing_class.pad_token_id))
        scores = trainer.model_wrapped(**inputs, use_cache=False).logits.float().cpu().split([len(row["texts"]) for row in batch])
        found += [Judged(one.T.tolist(), row["targets"], row["lengths"]) for one, row in zip(scores, batch, strict=True)] * weight
    return [one for part in _gathered(found) for one in part]


def _preferred(trainer, rows: Dataset, microbatch: int) -> dict[str, float]:
    margins = []
    for batch, weight in _shares(rows, microbatch):
        chosen, rejected = _log_ratios(trainer, batch)
        margins += (trainer.beta * (chosen - rejected)).tolist() if weight else []
    margins = torch.tensor([margin for part in _gathered(margins) for margin in part])
    return {"accuracy": _share_right(margins), "margin": float(margins.mean()), "pairs": len(margins)}


def _good_and_bad(trainer, rows: Dataset, microbatch: int) -> dict[str, float]:
    found = []
    for batch, weight in _shares(rows, microbatch):
        rewards = trainer.beta * _log_ratios(trainer, batch)[0]
        found += zip(rewards.tolist(), (row["label"] for row in batch), strict=True) if weight else []
    found = [one for part in _gathered(found) for one in part]
    good, bad = (torch.tensor([reward for reward, label in found if label == kind]) for kind in (True, False))
    if not len(good) or not len(bad):
        return {}
    margins = (good[:, None] - bad[None]).flatten()
    return {"accuracy": _share_right(margins), "margin": float(margins.mean()), "pairs": len(margins)}


def _log_ratios(trainer, batch: list[dict]) -> list[torch.Tensor]:
    """log π − log π_ref of the answers, summed over their tokens: of chosen and rejected ones, or of the judged ones (and of
    KTO's answers to other prompts).
    """
    inputs = trainer._prepare_inputs(trainer.data_collator(batch))
    policy, reference = (trainer.compute_ref_log_probs(model, inputs) for model in (trainer.model_wrapped, trainer.ref_model))
    return [one - other for one, other in zip(policy, reference, strict=True)]


def _share_right(margins: torch.Tensor) -> float:
    """Share of the pairs that are ranked right; ties count half."""
    return float(((margins > 0).float() + 0.5 * (margins == 0).float()).mean())


def _shares(rows: Dataset, microbatch: int) -> Iterator[tuple[list[dict], int]]:
    """This rank's batches; with ZeRO 3 all must make as many forwards, so some do one more, of weight 0."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    starts = list(range(0, len(rows), microbatch))
    for turn in range(math.ceil(len(starts) / world)):
        place = turn * world + rank
        start = starts[place if place < len(starts) else 0]
        yield [rows[i] for i in range(start, min(start + microbatch, len(rows)))], int(place < len(starts))


def _gathered(part) -> list:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [part]
    parts = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return parts
