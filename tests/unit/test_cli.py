"""The commands as a user types them: exit statuses, messages alone, nothing started where something is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scale_rlhf import __version__
from scale_rlhf.cli import app
from scale_rlhf.config.load import load_config

ROOT = Path(__file__).parents[2]


def call(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    return path


def test_config_prints_the_resolved_run_and_starts_nothing(tmp_path):
    path = written(tmp_path, f"run: {{name: toy, folder: {tmp_path}/runs}}\ndata: {{practice: {{}}}}\ncluster: {{cpus: 8}}\n")
    done = call("config", path, "ppo.steps=7")
    assert done.exit_code == 0
    again = tmp_path / "resolved.yaml"
    again.write_text(done.stdout)
    assert load_config(again) == load_config(path, ["ppo.steps=7"])
    assert not (tmp_path / "runs").exists()


def test_config_answers_without_torch(tmp_path):
    path = written(tmp_path, "data: {practice: {}}")
    code = (f"import sys; from scale_rlhf.cli import app; app(['config', {str(path)!r}], standalone_mode=False); "
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_a_mistake_is_a_message_alone_and_exit_status_2(tmp_path):
    done = call("run", written(tmp_path, "ppo: {stepz: 1}"))
    assert done.exit_code == 2
    assert done.stderr == f"scale-rlhf: {tmp_path}/toy.yaml:1: ppo.stepz: unknown key; did you mean `ppo.steps`?\n"


@pytest.mark.parametrize("command", ["run", "sft", "reward", "ppo", "evaluate", "resume", "config", "chat"])
def test_every_command_explains_itself(command):
    done = call(command, "--help")
    assert done.exit_code == 0 and "Usage" in done.stdout


def test_a_misspelt_command_names_the_nearest():
    done = call("confg", "x")
    assert done.exit_code == 2 and "Did you mean 'config'?" in done.stderr


def test_version():
    assert call("--version").stdout.strip() == f"scale-rlhf {__version__}"


def test_resume_of_what_is_no_run(tmp_path):
    done = call("resume", tmp_path)
    assert done.exit_code == 2 and "not the folder of a run" in done.stderr


def test_a_hub_model_that_cannot_be_asked_about_is_a_note(tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "scale_rlhf.cli", "config", ROOT / "configs" / "qwen2.5-0.5b.yaml"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "path: Qwen/Qwen2.5-0.5B-Instruct" in done.stdout
    assert "# not made: the hub cannot be reached" in done.stderr
