"""A run becomes a job of a cluster: what is checked, what is sent, and the command that the cluster's head runs."""

import os
import re
import secrets
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scale_rlhf.config.checks import check, stages_of
from scale_rlhf.config.load import dump, load_config
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.launching.jobs import CONFIG_KEY, RUN_KEY, JobServer
from scale_rlhf.launching.packing import CONFIG_FILE, check_paths, code_folder, pack
from scale_rlhf.redaction import without_secrets

JOIN = "cluster.address=auto"
STOP_SECONDS = 120  # from `stop` until what is left of a run is killed; Ray's own 3 are less than a clean end takes
LONGEST_METADATA = 100_000  # characters


@dataclass(frozen=True)
class Submission:
    """What shall run: a new run of `config`, or the one in the folder `resume`. overrides: as given, for a resume."""

    run: str
    config: RunConfig | None
    code: Path | None
    notes: list[str]
    resume: str | None = None
    overrides: tuple[str, ...] = ()

    @property
    def entrypoint(self) -> str:
        """The command; `exec`, so that a signal of Ray's reaches the run and not a shell before it."""
        words = ["resume", self.resume, *self.overrides] if self.resume else ["run", CONFIG_FILE]
        return "exec scale-rlhf " + shlex.join([*words, JOIN])

    @property
    def metadata(self) -> dict[str, str]:
        config = {CONFIG_KEY: without_secrets(dump(self.config))[:LONGEST_METADATA]} if self.config else {}
        return {RUN_KEY: self.run, "job_name": self.run} | config


def new_run(path: str | Path, overrides: Sequence[str] = (), code: Path | None = None) -> Submission:
    """A run of a YAML file with overrides. Raises ConfigError for what is found wrong from here."""
    config = load_config(path, [*overrides, JOIN])
    return _checked(config, stages_of(config), (), code)


def resumed(path: str, overrides: Sequence[str] = (), code: Path | None = None) -> Submission:
    """The run in folder `path` of the cluster's file system, which this machine need not see."""
    from scale_rlhf.orchestration.run_folder import RunFolder

    if not os.path.isabs(path):
        raise RunError(f"--resume: expected the absolute path of the run's folder, as the cluster sees it; found {path}")
    resume = {"resume": path, "overrides": tuple(overrides)}
    if not os.path.isdir(path):
        notes = [f"{path} is not seen from this machine; whether it is a run is found out on the cluster"]
        if code is None:
            notes.append("no functions are sent: --code FOLDER sends those that the run names by their import path")
        return Submission(_run_name(path), None, _existing(code), notes, **resume)
    folder = RunFolder.open(path)
    if not (stages := folder.stages_left()):
        raise RunError(f"{path}: all stages of this run are done; `scale-rlhf submit CONFIG` starts a new one")
    config = folder.config([*overrides, JOIN])
    done = [name for name in folder.state()["stages"] if name not in stages]
    checked = _checked(config, stages, done, code)
    return Submission(folder.name, config, checked.code, checked.notes, **resume)


def hand_in(server: JobServer, wanted: Submission) -> str:
    """Sends it; returns the job's id."""
    with tempfile.TemporaryDirectory(prefix="scale-rlhf-submit-") as place:
        package = pack(None if wanted.resume else wanted.config, wanted.code, Path(place))
        if not any(package.folder.iterdir()):
            (package.folder / ".empty").touch()  # Ray refuses an empty folder
        return server.submit(
            entrypoint=wanted.entrypoint, submission_id=f"{wanted.run}-{secrets.token_hex(3)}", metadata=wanted.metadata,
            runtime_env={"working_dir": str(package.folder), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}},
        )


def _checked(config: RunConfig, stages: list[str], earlier: Sequence[str], code: Path | None) -> Submission:
    notes = check_paths(config)
    if not notes:  # else what is not here would be an error; the cluster checks it all again
        notes = check(config, stages, earlier=earlier, starts=False)
    return Submission(config.run.name, config, _existing(code) or code_folder(config), notes)


def _existing(code: Path | None) -> Path | None:
    if code is not None and not code.is_dir():
        raise RunError(f"--code: there is no folder {code}")
    return code


def _run_name(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", Path(path).name) or "run"
