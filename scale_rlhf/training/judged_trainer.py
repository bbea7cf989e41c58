"""Reward models from all feedback but pairs: transformers' Trainer with the loss of `reward_model.feedback`.

A row is {"texts": [K token lists], "targets": [aspects][K], "lengths"}, NaN where nobody judged: see data/feedback.py.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import Trainer

from scale_rlhf.algorithms.preference import binary_loss, comparison_loss, plackett_luce_loss, rating_loss, told_apart
from scale_rlhf.config.supervised import RewardModelSection
from scale_rlhf.training.supervised import Job
from scale_rlhf.training.trl_trainers import StageTrainer


class JudgedStageTrainer(StageTrainer, Trainer):
    """Loss: summed over what raters said in a step (comparisons, ratings, … in each aspect), over its number there."""

    def __init__(self, job: Job, **keywords):
        tokenizer, model = keywords["processing_class"], keywords["model"]
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id  # by which a classifier finds the last token
        super().__init__(job, data_collator=lambda rows: collated(rows, tokenizer.pad_token_id), **keywords)
        said = [count(row, job.section) for row in keywords["train_dataset"]["targets"]]
        self._said = np.reshape(said, (job.layout.steps, job.layout.slots)).sum(1)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        layout = self._job.layout
        # The Trainer takes the mean over workers and forwards; a step in which nobody said anything has the loss 0.
        forwards = layout.slots // layout.per_device
        denominator = max(int(self._said[self.state.global_step]), 1) / forwards
        loss = feedback_loss(outputs.logits.float(), inputs["targets"], inputs["places"], self._job.section, denominator)
        return (loss, outputs) if return_outputs else loss


def feedback_loss(
    scores: torch.Tensor, targets: torch.Tensor, places: torch.Tensor, section: RewardModelSection, denominator: float,
) -> torch.Tensor:
    """The loss of a forward. scores: [texts, A]. targets: [rows, A, K], NaN: not judged. places: [rows, K] of the texts."""
    each, said, feedback = scores[places].movedim(-1, 1), ~targets.isnan(), section.feedback
    if feedback == "comparisons":
        options = {"minimum_gap": section.minimum_gap, "margin": section.margin}
        return comparison_loss(each, targets, said, **options, denominator=denominator)
    if feedback == "rankings":
        return plackett_luce_loss(each, -targets, said, denominator=denominator)
    return {"ratings": rating_loss, "binary": binary_loss}[feedback](each, targets, said, denominator=denominator)


def count(targets: Sequence[Sequence[float]], section: RewardModelSection) -> int:
    """How much one row says: in each aspect, of one response its judgement, of several their ranking, if two are in it.

    Of comparisons the pairs of responses that are told apart.
    """
    if section.feedback == "comparisons":
        ratings = torch.tensor(targets, dtype=torch.float32)  # as in the loss
        return int(told_apart(ratings, ~ratings.isnan(), section.minimum_gap).sum())
    judged = [sum(target == target for target in aspect) for aspect in targets]
    return sum(number >= min(2, len(aspect)) for number, aspect in zip(judged, targets, strict=True))


def collated(rows: Sequence[dict], pad: int) -> dict[str, torch.Tensor]:
    """`padded`, with targets [rows, A, K] and places [rows, K] of the texts; shorter rows are filled with NaN and place 0."""
    longest = max(len(row["texts"]) for row in rows)
    targets = torch.full((len(rows), len(rows[0]["targets"]), longest), torch.nan)
    places, before = torch.zeros(len(rows), longest, dtype=torch.long), 0
    for number, row in enumerate(rows):
        texts = len(row["texts"])
        targets[number, :, :texts] = torch.tensor(row["targets"])
        places[number, :texts] = torch.arange(before, before + texts)
        before += texts
    return {**padded(rows, pad), "targets": targets, "places": places}


def padded(rows: Sequence[dict], pad: int) -> dict[str, torch.Tensor]:
    """Every text of the rows, one after another: input_ids and attention_mask, [texts, longest]."""
    texts = [torch.tensor(ids) for row in rows for ids in row["texts"]]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=pad)
    lengths = torch.tensor([len(text) for text in texts])
    return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}
