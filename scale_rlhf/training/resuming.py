"""Where a supervised stage that was interrupted goes on: at its newest whole checkpoint, if that is of this very training.

    STAGE/checkpoints/checkpoint-200/   what transformers' Trainer and DeepSpeed write, of all ranks
                                        and manifest.json: checksums, and the training that it is of
    STAGE/checkpoints/checkpoint-400/   the last two are kept until the stage's model stands

Parts of a checkpoint are pickled. Nothing is unpickled before all files were found to be what was written.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from rich.console import Console

from scale_rlhf.errors import RunError
from scale_rlhf.orchestration.checksums import describe, faults, manifest, seal
from scale_rlhf.training.layout import FILLER

if TYPE_CHECKING:
    from scale_rlhf.training.supervised import Job

CHECKPOINTS = "checkpoints"
_PREFIX = "checkpoint-"  # the Trainer's
# Of a section: what another value of leaves the model of a step as it is. The weights of `model` are in the checkpoint.
_FREE = {"model", "microbatch", "gradient_checkpointing", "save_every", "held_out_every", "cpus", "gpus", "threads"}


def going_on(job: Job, stage: str, section: str) -> Job:
    """`job` from its newest whole checkpoint on, or from the beginning where there is none; prints which, and what was wrong.

    section: of the configuration, for messages. What is not whole is removed: the Trainer would count it among those it
    keeps. Raises RunError where the checkpoint is of another training; nothing is removed then.
    """
    folder = job.work / CHECKPOINTS
    job = dataclasses.replace(job, training=training_of(job, section))
    unusable = []
    for path in _newest_first(folder):
        if found := faults(path):
            unusable.append(path)
            _say(f"{path} is not used: {_brief(found)}")
            continue
        kept = manifest(path)
        _check_same(kept["training"], job.training, f"{stage}: it cannot go on from {path}", folder)
        job = dataclasses.replace(job, checkpoint=path, done=kept["step"])
        break
    for path in unusable:
        shutil.rmtree(path)
    if job.checkpoint or unusable:
        _say(f"{stage} goes on after step {job.done} of {job.layout.steps}" if job.checkpoint
             else f"{stage} begins anew: none of its checkpoints is whole")
    return job


def training_of(job: Job, section: str) -> dict[str, Any]:
    """What makes a step's model: {"SECTION.key": value, "run.seed": …, "rows": checksum of the samples of each step}."""
    settings = job.section.model_dump(mode="json", exclude=_FREE)
    return {f"{section}.{key}": value for key, value in settings.items()} | {"run.seed": job.seed, "rows": _rows(job)}


def seal_checkpoint(output: Path, step: int, training: dict[str, Any]) -> None:
    """Call on rank 0 once all ranks have written the checkpoint of `step`: from now on it can be gone on from."""
    seal(output / f"{_PREFIX}{step}", step=step, training=training)


def _rows(job: Job) -> str:
    """Checksum of the tokens and of which samples each step has, however a step is cut into forwards."""
    digest = xxhash.xxh3_64()
    for name, file in describe(job.work / "rows").items():
        if name.endswith(".arrow"):
            digest.update(file["xxh3"].encode())
    for step in job.layout.order.reshape(job.layout.steps, -1):
        digest.update(np.sort(step[step != FILLER]).astype("<i8").tobytes())
    return digest.hexdigest()


def _newest_first(folder: Path) -> list[Path]:
    paths = [path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal()]
    return sorted(paths, key=lambda path: int(path.name.removeprefix(_PREFIX)), reverse=True)


def _check_same(kept: dict[str, Any], now: dict[str, Any], beginning: str, folder: Path) -> None:
    """kept: of the checkpoint. Keys that either does not know come from another release and are not compared."""
    changed = [key for key in kept if key in now and kept[key] != now[key]]
    if not changed:
        return
    settings = [f"{key} is {now[key]!r} and was {kept[key]!r} when it was written" for key in changed if key != "rows"]
    said = "; ".join(settings) or "its rows, or their order, are not those it was trained on"
    raise RunError(f"{beginning}: {said}. Set that back, or delete {folder} to begin this stage anew")


def _brief(found: list[str]) -> str:
    return found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")


def _say(words: str) -> None:
    Console().print(f"  note: {words}", highlight=False, markup=False, soft_wrap=True)
