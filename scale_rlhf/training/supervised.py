"""Supervised stages on the driver: what is trained on which rows, started under Ray Train and watched to its end.

    rows ─► layout ─► TorchTrainer ─► workers (supervised_worker.py: TRL's trainer over DeepSpeed)
                           │                 │ progress.jsonl, one line a step, by rank 0
                           ▼                 ▼
                      result, errors     progress bar, metrics

Rows and models pass through the run's folder, which on a cluster must be shared by its machines.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scale_rlhf.config.schema import LimitsSection, ModelSection, RunConfig, SupervisedSection
from scale_rlhf.errors import DataError, RunError
from scale_rlhf.telemetry.metrics import MetricsLog
from scale_rlhf.training.layout import Layout, lay_out
from scale_rlhf.training.ray_train import RayTrainRun

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from scale_rlhf.orchestration.run_folder import RunFolder

Kind = Literal["language", "reward"]
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
    work: Path  # tokenizer/, rows/, held_out/ and the progress file are here
    out: Path  # where the trained model goes
    packed: bool  # rows are several samples each, with `seq_lengths`


def train(
    kind: Kind, config: RunConfig, folder: RunFolder, stage: str, *, section: SupervisedSection, start: str | None,
    tokenizer: PreTrainedTokenizerBase, rows: Dataset, held_out: Dataset, packed: bool = False,
) -> dict[str, float]:
    """Train, show progress, keep metrics/STAGE.jsonl, and leave the model with its tokenizer in models/STAGE.

    rows, held_out: tokens; `language` rows have input_ids and labels (-100 where there is no loss), `reward` rows have
    chosen_ids, rejected_ids and margin. Returns the mean loss of the last tenth of the steps, what the worker measured
    on `held_out`, the number of parameters and the seconds. Raises RunError with a worker's last words if one fails.
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
    run = RayTrainRun(job, work / "ray", config.limits.start_seconds)
    with MetricsLog(folder, stage) as log:
        losses = _watch(run, job, stage, config.limits, log)
    measures = run.result(stage)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)  # a model stands in its place whole, or not at all
    for inputs in ("rows", "held_out", "tokenizer", "ray"):
        shutil.rmtree(work / inputs, ignore_errors=True)
    last = losses[-max(1, len(losses) // 10) :]
    return {"loss": sum(last) / len(last), **measures, "seconds": round(time.monotonic() - began, 1)}


def write_inputs(job: Job, tokenizer: PreTrainedTokenizerBase, rows: Dataset, held_out: Dataset) -> None:
    """Put what the workers read into job.work, and take away what an earlier attempt left."""
    from datasets import disable_progress_bars

    disable_progress_bars()
    shutil.rmtree(job.out, ignore_errors=True)
    (job.work / PROGRESS_FILE).unlink(missing_ok=True)
    tokenizer.save_pretrained(job.work / "tokenizer")
    for name, part in (("rows", rows), ("held_out", held_out)):
        shutil.rmtree(job.work / name, ignore_errors=True)
        part.save_to_disk(job.work / name)


def _lengths(rows: Dataset) -> list[int]:
    columns = [rows[name][:] for name in ("input_ids", "chosen_ids", "rejected_ids") if name in rows.column_names]
    return [max(len(ids) for ids in row) for row in zip(*columns, strict=True)]


def _watch(run: RayTrainRun, job: Job, stage: str, limits: LimitsSection, log: MetricsLog) -> list[float]:
    """Follow rank 0's progress file to the end of the run; returns the loss of each step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"),
               TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    losses, place, heard = [], 0, time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{stage}: starting", total=job.layout.steps, loss="")
        running = True
        while running:
            running = not run.finished(seconds=0.25)
            lines, place = _new_lines(job.work / PROGRESS_FILE, place)
            for line in lines:
                step = line.pop("step")
                log.log(step, line)
                losses.append(line["loss"])
                bar.update(task, completed=step, description=stage, loss=f"loss {line['loss']:.3f}")
            heard = time.monotonic() if lines else heard
            _check_deadline(stage, len(losses), job.layout.steps, time.monotonic() - heard, limits)
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


def _check_deadline(stage: str, steps: int, total: int, silent: float, limits: LimitsSection) -> None:
    allowed = limits.update_seconds + (0 if steps else limits.start_seconds)
    if silent > allowed:
        raise RunError(f"{stage}: its workers made no step for {silent:.0f} s after step {steps} of {total} "
                       f"(allowed: {allowed:.0f} s); see Ray's dashboard or logs for what they do, "
                       "or raise limits.update_seconds")
