"""TRL's DPO and KTO trainers in the frame of the others: a step's gradient does not depend on how the step is cut."""

from __future__ import annotations

import math

import torch
from datasets import Dataset
from trl import DPOTrainer, KTOTrainer

from scale_rlhf.training.trl_trainers import StageTrainer

_NAMES = {"rewards/accuracies": "accuracy", "rewards/margins": "margin", "rewards/chosen": "chosen_reward",
          "rewards/rejected": "rejected_reward"}
_OF_SLOTS = ("entropy", "mean_token_accuracy")  # TRL's means over forwards, of fillers too


class PairStageTrainer(StageTrainer, DPOTrainer):
    """Loss of dpo, ipo or cdpo, summed over the pairs of a step, over their number in the whole step."""

    def _prepare_dataset(self, dataset: Dataset, *_) -> Dataset:
        return dataset  # the driver has tokenised it

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # Fillers have no answers: their log-ratios are 0, and their loss a constant.
        section = self._job.section
        constant = 1 / (4 * section.beta**2) if section.loss == "ipo" else math.log(2)
        return self._without_fillers(super().compute_loss(model, inputs), constant)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        scale, metrics = self._slots_a_pair(self.state.global_step - 1), self._metrics["train"]
        for theirs, ours in _NAMES.items():
            if theirs in metrics:
                metrics[ours] = [value * scale for value in metrics.pop(theirs)]
        for key in _OF_SLOTS:
            metrics.pop(key, None)
        super().log(logs, start_time)


class UnpairedStageTrainer(StageTrainer, KTOTrainer):
    """KTO's loss, summed over the answers of a step, over their number in the whole step.

    Its reference point is an estimate of KL(π ‖ π_ref). TRL takes it from the rows of one forward; here it is taken from the
    whole step before its first forward, so that the step can be cut in any way.
    """

    _point: torch.Tensor  # of the step, nats, not below 0

    def _prepare_dataset(self, dataset: Dataset, *_) -> Dataset:
        return dataset  # the driver has tokenised it

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._point = self._reference_point(batches)
        return batches, items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        section = self._job.section  # fillers are good answers without a token
        constant = section.good_weight * float(torch.sigmoid(section.beta * self._point))
        return self._without_fillers(super().compute_loss(model, inputs), constant)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        for key in _OF_SLOTS:
            self._metrics["train"].pop(key, None)
        super().log(logs, start_time)

    def _compute_kl_logps(self, model, batch) -> torch.Tensor:
        """TRL takes the mean of the policy's less the reference's."""
        return torch.zeros_like(self._point) if model is self.ref_model else self._point

    def _reference_point(self, batches: list[dict]) -> torch.Tensor:
        """Mean log-ratio of answers to other prompts (`KL_` columns) over a step's rows on all ranks, fillers not counted."""
        total = torch.zeros(2, device=self.accelerator.device)
        for batch in map(self._prepare_inputs, batches):
            with self.compute_loss_context_manager():
                policy, reference = (super(UnpairedStageTrainer, self)._compute_kl_logps(model, batch)
                                     for model in (self.model_wrapped, self.ref_model))
            real = batch["KL_completion_mask"].any(1)
            total += torch.stack([(policy - reference)[real].sum().float(), real.sum().float()])
        total = self.accelerator.reduce(total, "sum")
        return (total[0] / total[1].clamp(min=1)).clamp(min=0)
