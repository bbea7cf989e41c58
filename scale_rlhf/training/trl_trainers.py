"""TRL's SFT and reward trainers with this project's optimizer, schedule and weighting of a step."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoConfig, PrinterCallback, TrainerCallback, TrainingArguments
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from scale_rlhf.training.deepspeed_config import deepspeed_config, learning_rate_factor, optimizer
from scale_rlhf.training.preference_arguments import dpo_arguments, kto_arguments
from scale_rlhf.training.resuming import CHECKPOINTS, seal_checkpoint
from scale_rlhf.training.supervised import Job


def arguments(job: Job) -> TrainingArguments:
    """The trainer's arguments. The order of the rows, the optimizer and the schedule are ours, so theirs are left out."""
    section, layout = job.section, job.layout
    common = {
        "output_dir": str(job.work / CHECKPOINTS), "seed": job.seed, "per_device_train_batch_size": layout.per_device,
        "max_steps": layout.steps, "gradient_accumulation_steps": layout.accumulation,
        "max_grad_norm": section.max_gradient_norm, "gradient_checkpointing": section.gradient_checkpointing,
        "bf16": section.dtype == "bfloat16" and not section.autocast, "use_cpu": not section.gpus,
        "deepspeed": _deepspeed(job), "train_sampling_strategy": "sequential",
        "logging_steps": 1, "report_to": [], "disable_tqdm": True, "log_level": "error",
        "dataloader_pin_memory": bool(section.gpus),
    }
    if section.save_every is None:
        common |= {"save_strategy": "no"}
    else:  # two: the older one is whole while the newer one is written
        common |= {"save_strategy": "steps", "save_steps": section.save_every, "save_total_limit": 2}
    if job.kind == "judged":  # rows of columns that no model knows
        return TrainingArguments(**common, remove_unused_columns=False)
    common["max_length"] = None
    if job.kind == "reward":
        return RewardConfig(**common, disable_dropout=False)  # a model is loaded without any; what there is, is LoRA's own
    if job.kind in ("dpo", "kto"):
        return (dpo_arguments if job.kind == "dpo" else kto_arguments)(section, common)
    return SFTConfig(**common, packing=job.packed, dataset_kwargs={"skip_prepare_dataset": True},
                     neftune_noise_alpha=getattr(section, "neftune_alpha", None))


def _deepspeed(job: Job) -> dict:
    hidden = job.model.scratch.hidden_size
    if job.start is not None:
        start = AutoConfig.from_pretrained(job.start, trust_remote_code=job.model.trust_remote_code)
        hidden = start.get_text_config().hidden_size
    config = deepspeed_config(job.section, hidden)
    config |= {"train_micro_batch_size_per_gpu": job.layout.per_device, "gradient_accumulation_steps": job.layout.accumulation}
    if job.section.zero_stage == 3:
        config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    return config


def _keep_norm(engine) -> None:
    """DeepSpeed without ZeRO clips fp32 gradients and forgets their norm: keep it where accelerate asks for it."""
    from deepspeed.runtime.utils import clip_grad_norm_

    if "clip_fp32_gradients" in vars(engine):
        return

    def clip() -> None:
        engine._global_grad_norm = clip_grad_norm_(engine.module.parameters(), engine.gradient_clipping(), mpu=engine.mpu)

    engine.clip_fp32_gradients = clip


class Checkpoints(TrainerCallback):
    """Seals each checkpoint once all ranks have written their parts of it. None is made of the last step: the model follows."""

    def __init__(self, job: Job):
        self._job = job

    def on_train_begin(self, args, state, control, **_):
        state.save_steps = args.save_steps  # a checkpoint brings along the number that it was made with

    def on_step_end(self, args, state, control, **_):
        if state.global_step >= state.max_steps:
            control.should_save = False

    def on_save(self, args, state, control, **_):
        if dist.is_initialized():
            dist.barrier()
        if state.is_world_process_zero:
            seal_checkpoint(Path(args.output_dir), state.global_step, self._job.training)


class StageTrainer:
    """What every trainer takes from the job instead of from its library's arguments."""

    def __init__(self, job: Job, **keywords):
        self._job = job
        super().__init__(**keywords)
        self.remove_callback(PrinterCallback)  # the driver shows progress

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        _keep_norm(model)
        return super().training_step(model, inputs, num_items_in_batch)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Nothing for a checkpoint: DeepSpeed's part of it holds the weights, and under ZeRO 3 would gather them once more."""

    def create_model_card(self, *_, **__) -> None:
        """None: the run's folder says what made the model."""

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = optimizer(self._job.section, (model or self.model).parameters())
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None) -> torch.optim.lr_scheduler.LambdaLR:
        if self.lr_scheduler is None:
            factor = learning_rate_factor(self._job.section, num_training_steps)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def _slots_a_pair(self, step: int | None = None) -> float:
        step = self.state.global_step if step is None else step
        return self._job.layout.slots / self._job.layout.samples(min(step, self._job.layout.steps - 1))

    def _without_fillers(self, loss: torch.Tensor, constant: float) -> torch.Tensor:
        """A forward's part of the mean over samples. loss: mean over its slots. constant: what a filler adds to their sum."""
        scale = self._slots_a_pair()
        return loss * scale - (scale - 1) * constant


class SupervisedStageTrainer(StageTrainer, SFTTrainer):
    """Loss: cross-entropy summed over the labelled tokens of a step, over their number in the whole step."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        metrics = self._metrics["train"]
        filled = [entropy > 0 for entropy in metrics.get("entropy", [])]  # TRL gives 0 to a forward of fillers alone
        for key in ("entropy", "mean_token_accuracy"):
            kept = [value for value, labelled in zip(metrics.get(key, []), filled, strict=False) if labelled]
            if kept:
                metrics[key] = kept
        super().log(logs, start_time)


class RewardStageTrainer(StageTrainer, RewardTrainer):
    """Loss: −log σ(chosen − rejected − margin), summed over the pairs of a step, over their number in the whole step."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not self.model.training:
            return result
        # TRL's mean is over slots; rows that fill a step up count as slots and not as pairs.
        scale = self._slots_a_pair()
        return (result[0] * scale, result[1]) if return_outputs else result * scale

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        scale = self._slots_a_pair(self.state.global_step - 1)
        metrics = self._metrics["train"]
        for key in {"accuracy", "margin"} & metrics.keys():
            metrics[key] = [value * scale for value in metrics[key]]
        super().log(logs, start_time)
