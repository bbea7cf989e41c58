"""Supervised stages on the driver: what is trained on which rows, started under Ray Train and watched to its end.

    rows ─► layout ─► TorchTrainer ─► workers (supervised_worker.py: TRL's trainer over DeepSpeed)
                           │                 │ progress.jsonl, one line a step, by rank 0
                           ▼                 ▼
                      result, errors     progress bar, metrics

Rows, models and checkpoints pass through the run's folder, which on a cluster must be shared by its machines. A stage
that was interrupted goes on from its last checkpoint (resuming.py).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scale_rlhf.config.schema import LimitsSection, ModelSection, RunConfig
from scale_rlhf.config.supervised import SUPERVISED, SupervisedSection
from scale_rlhf.errors import DataError, RunError
from scale_rlhf.orchestration.run_folder import write_atomically
from scale_rlhf.telemetry.metrics import MetricsLog, read_metrics
from scale_rlhf.telemetry.progress import stage_progress
from scale_rlhf.training.layout import Layout, lay_out
from scale_rlhf.training.ray_train import RayTrainRun
from scale_rlhf.training.resuming import CHECKPOINTS, going_on

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from scale_rlhf.orchestration.run_folder import RunFolder

Kind = Literal["language", "reward", "judged", "dpo", "kto"]
PROGRESS_FILE = "progress.jsonl"


@dataclass(frozen=True)
class Job:
    """What every worker is given. Paths are in the run's folder."""

    kind: Kind
    section: SupervisedSection
    model: ModelSection
    start: str | None  # None: a model from scratch
    seed: int
    layout: Layout
    work: Path  # tokenizer/, rows/, held_out/, checkpoints/ and the progress file are here
    out: Path  # where the trained model goes
    packed: bool  # rows are several samples each, with `seq_lengths`
    training: dict[str, Any] = field(default_factory=dict)  # see resuming.training_of; stands in each checkpoint
    checkpoint: Path | None = None  # to go on from
    done: int = 0  # optimizer steps that it has behind it


def train(
    kind: Kind, config: RunConfig, folder: RunFolder, stage: str, *, section: SupervisedSection, start: str | None,
    tokenizer: PreTrainedTokenizerBase, rows: Dataset, held_out: Dataset, packed: bool = False,
) -> dict[str, Any]:
    """Train, show progress, keep metrics/STAGE.jsonl, and leave the model with its tokenizer in models/STAGE.

    Goes on from the stage's last checkpoint where there is one.

    rows, held_out: tokens; `language` rows have input_ids and labels (-100 where there is no loss), `reward` rows have
    chosen_ids, rejected_ids and margin, `judged` rows and what is held out for `reward` have texts, targets and lengths
    (stages/reward_model.py), `dpo` and `kto` rows are those of stages/dpo.py. Returns the mean loss of the last tenth of the
    steps, what the worker measured on `held_out`, the number of parameters and the seconds. Raises RunError with a worker's
    last words if one fails.
    """
    if len(rows) == 0:
        raise DataError(f"{stage}: no rows are left to train on: all are held out, or no response begins within max_tokens "
                        f"({section.max_tokens})")
    began = time.monotonic()
    work, out = folder.stage(stage).absolute(), folder.model(stage).absolute()
    partial = out.with_name(f".{out.name}.partial")
    layout = lay_out(_lengths(rows), section, config.run.seed)
    job = Job(kind, section, config.model, start, config.run.seed, layout, work, partial, packed)
    write_inputs(job, tokenizer, rows, held_out)
    job = going_on(job, stage, SUPERVISED[stage])
    _keep_progress(job)
    run = RayTrainRun(job, work / "ray", config.limits.start_seconds)
    with MetricsLog(folder, stage, after=job.done, steps=job.layout.steps) as log:
        losses = _watch(run, job, stage, config.limits, log)
    measures = run.result(stage)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)  # a model stands in its place whole, or not at all
    for used in ("rows", "held_out", "tokenizer", "ray", CHECKPOINTS):
        shutil.rmtree(work / used, ignore_errors=True)
    last = losses[-max(1, len(losses) // 10) :]
    return {"loss": sum(last) / len(last), **measures, "seconds": round(time.monotonic() - began, 1)}


def write_inputs(job: Job, tokenizer: PreTrainedTokenizerBase, rows: Dataset, held_out: Dataset) -> None:
    """Put what the workers read into job.work, and take away what an earlier attempt left."""
    from datasets import disable_progress_bars

    disable_progress_bars()
    for left in (job.out, job.work / "ray"):
        shutil.rmtree(left, ignore_errors=True)
    tokenizer.save_pretrained(job.work / "tokenizer")
    for name, part in (("rows", rows), ("held_out", held_out)):
        shutil.rmtree(job.work / name, ignore_errors=True)
        part.save_to_disk(job.work / name)


def _keep_progress(job: Job) -> None:
    """Take away what an earlier attempt wrote after the checkpoint: those steps are made again."""
    path = job.work / PROGRESS_FILE
    kept = [line for line in _new_lines(path, 0)[0] if line["step"] <= job.done]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))


def _lengths(rows: Dataset) -> list[int]:
    """Tokens of each row; of a pair, those of its longer side, and of several texts those of the longest."""
    if "texts" in rows.column_names:
        return [max(len(ids) for ids in texts) for texts in rows["texts"]]
    answers = ("input_ids", "chosen_ids", "rejected_ids", "completion_ids")
    columns = [rows[name][:] for name in answers if name in rows.column_names]
    before = [len(ids) for ids in rows["prompt_ids"][:]] if "prompt_ids" in rows.column_names else [0] * len(rows)
    return [prompt + max(len(ids) for ids in row) for prompt, *row in zip(before, *columns, strict=True)]


def _watch(run: RayTrainRun, job: Job, stage: str, limits: LimitsSection, log: MetricsLog) -> list[float]:
    """Follow rank 0's progress file to the end of the run; returns the loss of each step, of earlier attempts too."""
    losses, place, step, heard = [], 0, job.done, time.monotonic()
    logged = {line["step"] for line in read_metrics(log.path)}  # before this attempt
    with stage_progress(stage, job.layout.steps) as progress:
        if job.done:
            progress.advance(job.done)
        shown, running = job.done, True
        while running:
            running = not run.finished(seconds=0.25)
            lines, place = _new_lines(job.work / PROGRESS_FILE, place)
            for line in lines:
                step = line.pop("step")
                losses.append(line["loss"])
                if step not in logged:
                    log.log(step, line)
                if step > shown:
                    progress.advance(step - shown, f"loss {line['loss']:.3f}")
                    shown = step
            heard = time.monotonic() if lines else heard
            _check_deadline(stage, step, job, time.monotonic() - heard, limits)
    return losses


def _new_lines(path: Path, place: int) -> tuple[list[dict], int]:
    """Whole lines of the file after byte `place`, and the place after them."""
    if not path.exists():
        return [], place
    with open(path, "rb") as file:
        file.seek(place)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], place + len(whole)


def _check_deadline(stage: str, step: int, job: Job, silent: float, limits: LimitsSection) -> None:
    allowed = limits.update_seconds + (0 if step > job.done else limits.start_seconds)
    if silent > allowed:
        raise RunError(f"{stage}: its workers made no step for {silent:.0f} s after step {step} of {job.layout.steps} "
                       f"(allowed: {allowed:.0f} s); see Ray's dashboard or logs for what they do, "
                       "or raise limits.update_seconds")
