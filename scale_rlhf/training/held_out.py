"""What a supervised stage is measured by, on rows it never trained on, shared out over its workers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset

from scale_rlhf.config.schema import SupervisedSection
from scale_rlhf.training.judged_trainer import padded
from scale_rlhf.training.reward_quality import Judged, quality


def measure(trainer, kind: str, rows: Dataset, section: SupervisedSection) -> dict[str, Any]:
    """`language`: held_out_loss (nats a labelled token) and perplexity. Reward models: see reward_quality.quality.

    trainer: of TRL, trained; all ranks call together. No rows: nothing is measured, {}.
    """
    if len(rows) == 0:
        return {}
    trainer.model.eval()
    with torch.no_grad():
        if kind == "language":
            return _language(trainer, rows, section.microbatch)
        return quality(_judged(trainer, rows, section.microbatch), section)


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
