"""Two processes never work at one run; a dead one does not keep it."""

import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from scale_rlhf.cli import app
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.orchestration.run_lock import alone, at_work
from scale_rlhf.stages import runner

HOLDS = """
import subprocess, sys
from pathlib import Path
from scale_rlhf.orchestration.run_lock import alone
with alone(Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)  # as Ray's processes outlive the run's
    print(child.pid, flush=True)
    child.wait()
"""


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(RunConfig(run={"name": "toy", "folder": str(tmp_path)}, cluster={"cpus": 8}))


@pytest.fixture
def another(folder):
    """A process that works at the run: (its id, its child's)."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, folder.path], stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    yield holder, child
    holder.kill()
    holder.wait()
    os.kill(child, signal.SIGKILL)


def test_who_works_at_a_run_is_named_and_let_alone(folder, another):
    holder, _ = another
    state = folder.state()
    with pytest.raises(RunError, match=rf"toy: process {holder.pid} on .*, since 20.*, works at this run.*resume .*toy"):
        runner.resume(folder.path)
    with pytest.raises(RunError, match="works at this run"):
        runner.go_on(folder.path, folder.config())
    assert folder.state() == state


def test_a_process_that_was_killed_keeps_nothing(folder, another):
    holder, child = another
    assert at_work(folder.path)
    holder.kill()
    holder.wait()
    os.kill(child, 0)  # which had no part in the lock
    assert at_work(folder.path) is None
    with alone(folder.path):
        assert f"process {os.getpid()} on " in at_work(folder.path)
    assert at_work(folder.path) is None


def test_a_run_beside_one_of_its_name_gets_a_folder_of_its_own(folder, another, monkeypatch, tmp_path):
    begun = []
    monkeypatch.setattr(runner, "run", begun.append)
    file = tmp_path / "toy.yaml"
    file.write_text((folder.path / "config.yaml").read_text())
    said = CliRunner().invoke(app, ["run", str(file)])
    assert begun and f"process {another[0].pid}" in said.output and "a new run begins beside it" in said.output
    refused = CliRunner().invoke(app, ["run", str(file), "--go-on"])
    assert isinstance(refused.exception, (RunError, SystemExit)) and len(begun) == 1
