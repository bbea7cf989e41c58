"""What one Ray Train worker does: TRL's trainer over DeepSpeed, on rows that the driver has tokenised and laid out."""

from __future__ import annotations

import json
import logging
import math
import os
import warnings
from typing import TYPE_CHECKING

from scale_rlhf.cluster import names
from scale_rlhf.config.roles import SupervisedLora
from scale_rlhf.config.supervised import SUPERVISED
from scale_rlhf.telemetry import logs as marks
from scale_rlhf.telemetry import process
from scale_rlhf.training.layout import FILLER
from scale_rlhf.training.supervised import PROGRESS_FILE, Job

if TYPE_CHECKING:
    from datasets import Dataset

_NO_MARGIN = -1e9  # logsigmoid(c - r + 1e9) is 0, and so is its gradient: a pair of it weighs nothing
_SHOWN = ("loss", "learning_rate", "grad_norm", "accuracy", "margin", "chosen_reward", "rejected_reward", "kl",
          "mean_token_accuracy", "entropy")


def work(loop_config: dict) -> dict | None:
    """Train as job says, save the model, and measure it on the held-out rows. Rank 0 returns the measures."""
    job: Job = loop_config["job"]
    _prepare_process(job)
    from datasets import load_from_disk
    from transformers import AutoTokenizer

    from scale_rlhf.training.held_out import measure

    tokenizer = AutoTokenizer.from_pretrained(job.work / "tokenizer", trust_remote_code=job.model.trust_remote_code)
    rows = _in_order(load_from_disk(job.work / "rows"), job, tokenizer.eos_token_id)
    trainer = _trainer(job, tokenizer, rows)
    held_out = load_from_disk(job.work / "held_out")
    trainer.add_callback(_progress(job, trainer, held_out))
    trainer.train(resume_from_checkpoint=str(job.checkpoint) if job.checkpoint else None)
    _save(trainer, job, tokenizer)
    measures = measure(trainer, job.kind, held_out, job.section)
    if trainer.is_world_process_zero():
        parameters = sum(getattr(p, "ds_numel", p.numel()) for p in trainer.model.parameters())
        return {**measures, "parameters": parameters}
    return None


def _prepare_process(job: Job) -> None:
    import torch

    from scale_rlhf.training.process_group import leave_out_shared_memory_op

    process.begin(names.rank(job.work.name, int(os.environ["RANK"])))
    warnings.filterwarnings("ignore")
    for name in ("DeepSpeed", "accelerate", "transformers", "trl", "torch.distributed", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not job.section.gpus:
        torch.set_num_threads(job.section.threads)
    else:
        from ray.train.torch import get_device

        # Ray Train shows a worker all GPUs of its node's workers; where two share one, the rank is not the GPU's number.
        os.environ["LOCAL_RANK"] = str(get_device().index)
    leave_out_shared_memory_op()


def _in_order(rows: Dataset, job: Job, end: int) -> Dataset:
    """One row for each slot of the layout; FILLER slots get a row that weighs nothing."""
    from datasets import Dataset, concatenate_datasets

    order = job.layout.order
    if (order == FILLER).any():
        empty = _filler(job, rows, end)
        order = order.copy()
        order[order == FILLER] = len(rows)
        rows = concatenate_datasets([rows, Dataset.from_dict(empty, features=rows.features)])
    return rows.select(order)


def _filler(job: Job, rows: Dataset, end: int) -> dict[str, list]:
    if job.kind == "reward":
        return {"chosen_ids": [[end]], "rejected_ids": [[end]], "margin": [_NO_MARGIN]}
    if job.kind == "judged":
        return {"texts": [[[end]]], "targets": [[[math.nan]] * len(rows[0]["targets"])], "lengths": [[1]]}
    if job.kind == "dpo":
        return {"prompt_ids": [[end, end]], "chosen_ids": [[]], "rejected_ids": [[]]}
    if job.kind == "kto":
        return {"prompt_ids": [[end, end]], "completion_ids": [[]], "KL_completion_ids": [[]], "label": [True]}
    return {"input_ids": [[end]], "labels": [[-100]]} | ({"seq_lengths": [[1]]} if job.packed else {})


def _trainer(job: Job, tokenizer, rows: Dataset):
    from scale_rlhf.models import lora
    from scale_rlhf.training.judged_trainer import JudgedStageTrainer
    from scale_rlhf.training.preference_trainers import PairStageTrainer, UnpairedStageTrainer
    from scale_rlhf.training.trl_trainers import Checkpoints, RewardStageTrainer, SupervisedStageTrainer, arguments

    trainer_args = arguments(job)  # first: under ZeRO 3 it makes models load in parts
    kind = {"language": SupervisedStageTrainer, "reward": RewardStageTrainer, "judged": JudgedStageTrainer,
            "dpo": PairStageTrainer, "kto": UnpairedStageTrainer}[job.kind]
    reference = {"ref_model": _model(job, tokenizer)} if job.kind in ("dpo", "kto") else {}
    model = _model(job, tokenizer)
    if settings := _lora(job):
        lora.adapt(model, settings, f"{SUPERVISED.get(job.work.name, job.work.name)}.lora", job.seed)
    return kind(job, model=model, args=trainer_args, train_dataset=rows, processing_class=tokenizer,
                callbacks=[Checkpoints(job)], **reference)


def _model(job: Job, tokenizer):
    from scale_rlhf.models.loading import load_aspects, load_causal, load_scalar
    from scale_rlhf.models.scratch import scratch_model
    from scale_rlhf.training.deepspeed_config import weights_dtype

    if job.start is None:
        return scratch_model(job.model.scratch, tokenizer, job.seed, job.model.attention)
    model = job.model
    options = {"dtype": weights_dtype(job.section), "attention": model.attention, "trust_remote_code": model.trust_remote_code}
    if job.kind == "judged" and job.section.aspects:
        return load_aspects(job.start, job.section.aspects, seed=job.seed, **options)
    if job.kind in ("reward", "judged"):
        return load_scalar(job.start, seed=job.seed, **options).classifier
    return load_causal(job.start, **options)


def _lora(job: Job) -> SupervisedLora | None:
    return getattr(job.section, "lora", None)  # a model from nothing has no base to keep


def _save(trainer, job: Job, tokenizer) -> None:
    """Rank 0 writes the Hugging Face folder. Not by Trainer.save_model: it copies weights, so tied ones are written twice."""
    from scale_rlhf.models import lora
    from scale_rlhf.models.loading import save

    if _lora(job):
        exported = lora.export(trainer.model, job.start, keep=trainer.is_world_process_zero())
        if trainer.is_world_process_zero():
            save(trainer.model, job.out, state=exported.weights)
            lora.write(exported, job.out / lora.FOLDER)
            tokenizer.save_pretrained(job.out)
        return
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if job.section.zero_stage == 3 else None  # all ranks gather
    if trainer.is_world_process_zero():
        save(trainer.model, job.out, state=state)
        tokenizer.save_pretrained(job.out)


def _progress(job: Job, trainer, held_out: Dataset):
    from transformers import TrainerCallback

    from scale_rlhf.training.held_out import measure

    class Progress(TrainerCallback):
        """Rank 0 writes a line after each step; the driver reads them as they come."""

        held_out: dict[str, float] = {}  # of this step, where it is measured

        def on_step_end(self, args, state, control, **_):
            every = job.section.held_out_every
            self.held_out = {}
            if every and state.global_step % every == 0:
                measured = measure(trainer, job.kind, held_out, job.section)
                self.held_out = {f"held_out_{key.removeprefix('held_out_')}": value for key, value in measured.items()
                                 if key not in ("pairs", "report")}

        def on_log(self, args, state, control, logs=None, **_):
            marks.at_step(state.global_step + 1)
            if state.is_world_process_zero and logs and "loss" in logs:
                line = {"step": state.global_step} | {key: logs[key] for key in _SHOWN if key in logs} | self.held_out
                with open(job.work / PROGRESS_FILE, "a") as file:
                    file.write(json.dumps(line) + "\n")

    return Progress()
