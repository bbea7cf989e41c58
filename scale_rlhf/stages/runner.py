"""A run: checks, its folder, the practice world, Ray, and its stages one after another, each noted in run.json.

Everything that can be found wrong beforehand is found before a folder or a process is made. Ctrl-C and SIGTERM end a
run cleanly; a run that ended early goes on at the first stage that is not done (`resume`).
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path

from rich.console import Console

from scale_rlhf import disk
from scale_rlhf.cluster.installation import check_installation
from scale_rlhf.cluster.processes import ProcessWatch
from scale_rlhf.cluster.ray_cluster import log_folder, session
from scale_rlhf.cluster.signals import interruptible, uninterrupted
from scale_rlhf.config.changes import changes
from scale_rlhf.config.checks import check, stages_of
from scale_rlhf.config.load import load_config
from scale_rlhf.config.reward_sources import judge_functions, reward_functions
from scale_rlhf.config.schema import STAGES, RunConfig
from scale_rlhf.data.checks import check_data
from scale_rlhf.data.sources import sources
from scale_rlhf.errors import ConfigError, DiskError, RunError, UserError
from scale_rlhf.orchestration.run_folder import RunFolder, check_free
from scale_rlhf.orchestration.run_lock import alone
from scale_rlhf.orchestration.supervisor import tell_folder
from scale_rlhf.redaction import without_secrets
from scale_rlhf.stages.summary import final_table, stage_line
from scale_rlhf.telemetry import logs, process
from scale_rlhf.telemetry.report import write_report
from scale_rlhf.telemetry.sinks import sinks

# Of libraries that stages import: what is worth saying, stages say.
_QUIET = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error",
          "TOKENIZERS_PARALLELISM": "false"}
LONGEST_MESSAGE = 8  # lines
MODULES = {stage: stage for stage in STAGES} | {"reward": "reward_model"}


def run(config: RunConfig, stages: Sequence[str] | None = None) -> RunFolder:
    """Runs `stages` (by default run.stages) in a new run folder, and returns it.

    Raises ConfigError, DataError or RunError before anything starts where something is wrong; RunError where a stage
    fails; KeyboardInterrupt after a clean end.
    """
    stages = stages_of(config, stages)
    notes = check(config, stages)
    check_free(Path(config.run.folder), config.run.name)
    prepare_process(config)
    if not config.data.practice:
        notes += check_data(config, sources(config, None), stages)
    folder = RunFolder.create(config, stages)
    with alone(folder.path):
        if config.data.practice:
            try:
                notes += _practice_world(config, folder, stages)
            except UserError:
                shutil.rmtree(folder.path)  # made a moment ago, for nothing
                raise
        return _carry_on(config, folder, stages, notes)


def resume(path: str | Path, overrides: Sequence[str] = (), force: bool = False) -> RunFolder:
    """Goes on with the run at `path` at its first stage that is not done, from that stage's last checkpoint.

    overrides: key.path=value, for what the folder does not keep (an address with a password) or for another cluster. Those
    that would make it another run (model, data, seed) raise ConfigError, unless `force`.
    """
    folder = RunFolder.open(path)
    with alone(folder.path):
        return _go_on(folder, folder.config(overrides), force)


def go_on(path: str | Path, config: RunConfig) -> RunFolder:
    """As `resume`, with the whole configuration instead of overrides: what a job does that is started again as it was."""
    folder = RunFolder.open(path)
    with alone(folder.path):
        return _go_on(folder, config, force=False)


def _go_on(folder: RunFolder, config: RunConfig, force: bool) -> RunFolder:
    stages = folder.stages_left()
    if not stages:
        raise RunError(f"{folder.path}: all stages of this run are done; `scale-rlhf run` starts a new one")
    changed = changes(load_config(folder.path / "config.yaml"), config)
    if (harmful := [change for change in changed if change.harmful]) and not force:
        listed = "\n".join(f"  {change}" for change in harmful)
        raise ConfigError(f"{folder.path}: a run that has begun cannot go on with\n{listed}\n"
                          "Leave these as they were, begin a new run (run.name=OTHER), or give `scale-rlhf resume` --force "
                          "if you know what it does to the result")
    notes = [f"changed since it began: {change}" for change in changed]
    notes += check(config, stages, earlier=[name for name in folder.state()["stages"] if name not in stages])
    prepare_process(config)
    if config.data.practice:
        notes += _practice_world(config, folder, stages)
    else:
        notes += check_data(config, sources(config, folder), stages)
    folder.go_on(config, [str(change) for change in changed])
    return _carry_on(config, folder, stages, notes)


def _carry_on(config: RunConfig, folder: RunFolder, stages: list[str], notes: list[str]) -> RunFolder:
    console, started = Console(), time.monotonic()
    tell_folder(folder.path)
    console.print(f"[bold]{folder.name}[/]: {', '.join(stages)} in {folder.path}", highlight=False, soft_wrap=True)
    for note in notes:
        console.print(f"  note: {note}", highlight=False, markup=False, soft_wrap=True)
    try:
        with ExitStack() as stack:
            stack.enter_context(interruptible())
            watch = stack.enter_context(ProcessWatch())
            stack.enter_context(process.controller(folder.name, folder.path))
            dashboard = stack.enter_context(session(config, watch, stages, shown={"run": folder.name, "stages": ", ".join(stages),
                                                                                  "folder": str(folder.path.absolute())}))
            stack.enter_context(interruptible())  # again: ray.init took the handler of SIGTERM
            if place := log_folder():
                logs.also_to(place / f"run-{folder.name}.log")
            stack.enter_context(sinks(config, folder))
            if dashboard:
                console.print(f"  Ray's dashboard: {dashboard}", highlight=False, soft_wrap=True)
            for stage in stages:
                _run_stage(stage, config, folder, watch, console)
    except KeyboardInterrupt:
        console.print(f"stopped; go on with: scale-rlhf resume {folder.path}", highlight=False, markup=False, soft_wrap=True)
        raise
    finally:
        with suppress(RunError):  # a disk that is full has been told of already, or does no other harm
            before = folder.state().get("seconds", 0.0)  # of the run before it was resumed
            folder.note(seconds=round(before + time.monotonic() - started, 1))
    with disk.writing(folder.path / "report.html"):
        write_report(folder.path)  # again, where evaluation wrote one: with every stage's time
    final_table(folder, console)
    return folder


def _run_stage(stage: str, config: RunConfig, folder: RunFolder, watch: ProcessWatch, console: Console) -> None:
    console.rule(f"{stage}", align="left")
    folder.set_stage(stage, "running")
    for sink in folder.sinks:
        sink.begin(stage, None)
    watch.restart_peak()
    started = time.monotonic()

    def note(state: str, **values: object) -> float:
        seconds = round(time.monotonic() - started, 1)
        folder.set_stage(stage, state, seconds=seconds, peak_memory_gb=round(watch.restart_peak() / 1e9, 2), **values)
        return seconds

    try:
        summary = import_module(f"scale_rlhf.stages.{MODULES[stage]}").run(config, folder)
        seconds = note("done", summary=summary)
    except KeyboardInterrupt:
        with uninterrupted(), suppress(RunError):
            note("stopped")
        raise
    except Exception as error:
        cause = _cause(error)
        said, kind = _brief(str(cause)), type(cause)
        where = _keep(error, stage, folder)
        with suppress(RunError):  # on a full disk the state stays "running", from which a run can be resumed too
            note("failed", error=said)
        if why := disk.reason(cause):
            said, kind = f"stage {stage} failed: a file in {folder.path} cannot be written: {why}. {said}", DiskError
        elif not isinstance(cause, UserError):
            said, kind = f"stage {stage} failed: {kind.__name__}: {said}", RunError
        raise kind(f"{said}\n{where} {_what_next(stage, folder)}") from error
    stage_line(stage, seconds, summary, console)


def _keep(error: Exception, stage: str, folder: RunFolder) -> str:
    """Write the whole error into the stage's folder, if that can be written. Returns a sentence that says where it is."""
    file = folder.path / stage / "error.txt"
    try:
        with disk.writing(file):
            file.parent.mkdir(exist_ok=True)
            file.write_text(without_secrets("".join(traceback.format_exception(error))), errors="backslashreplace")
    except DiskError:
        return "The whole error could not be kept."
    return f"The whole error is in {file}."


def _cause(error: BaseException) -> BaseException:
    """What was raised in the actor, where Ray wrapped it."""
    while isinstance(inner := getattr(error, "cause", None), BaseException):
        error = inner
    return error


def _brief(message: str) -> str:
    """The first and the last line of a message that carries a traceback; a message of a few lines as it is."""
    lines = [line for line in message.splitlines() if line.strip()]
    return message if len(lines) <= LONGEST_MESSAGE else f"{lines[0]}\n  … {lines[-1]}"


def _what_next(stage: str, folder: RunFolder) -> str:
    return f"When it is mended, go on at stage {stage} with: scale-rlhf resume {folder.path}"


def _practice_world(config: RunConfig, folder: RunFolder, stages: list[str]) -> list[str]:
    """Writes the practice world's files, once, and checks all data as check_data does."""
    if not folder.state().get("practice_world"):
        from scale_rlhf.data.practice.write import write_world

        with disk.writing(folder.data):
            write_world(folder.data, config.data.practice)
        folder.note(practice_world="written")
    return check_data(config, sources(config, folder), stages)


def prepare_process(config: RunConfig) -> None:
    """The environment of this process and of those that it starts. Raises RunError where packages do not fit each other.

    Functions named by their import path may lie in the folder that the run is started from, for every process of it.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    check_installation()
    if not (reward_functions(config) or judge_functions(config)):
        return
    here = os.getcwd()
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if here not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([here, *paths])
    if here not in sys.path:
        sys.path.append(here)
