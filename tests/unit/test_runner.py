"""The runner's promises to any stage: order, what run.json says, errors with a way on, resuming. Stages here are a few lines."""

import re
import sys
from contextlib import contextmanager
from types import ModuleType

import pytest
from typer.testing import CliRunner

from scale_rlhf.cli import STOPPED, app
from scale_rlhf.config.load import dump
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import DataError, RunError
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.stages import runner


@pytest.fixture
def stages(monkeypatch):
    """{stage: function(config, folder)}: put one in to change what a stage does; calls are kept in `ran`."""
    behaviour, ran = {}, []

    def module(name):
        made = ModuleType(name)

        def run(config, folder):
            ran.append(name)
            return behaviour.get(name, lambda *_: {"loss": 0.5})(config, folder)

        made.run = run
        return made

    for stage, file in runner.MODULES.items():
        monkeypatch.setitem(sys.modules, f"scale_rlhf.stages.{file}", module(stage))

    @contextmanager
    def no_ray(*_, **__):
        yield None

    monkeypatch.setattr(runner, "session", no_ray)
    monkeypatch.setattr(runner, "log_folder", lambda: None)
    behaviour["ran"] = ran
    return behaviour


@pytest.fixture
def config(tmp_path):
    return RunConfig(
        run={"name": "toy", "folder": str(tmp_path), "stages": ["base", "sft", "reward"]}, cluster={"cpus": 8},
        data={"practice": {"base_lines": 200, "demonstrations": 20, "rated_prompts": 20, "prompts": 20}},
    )


def fail(error):
    def stage(config, folder):
        raise error

    return stage


def test_stages_run_in_order_and_their_numbers_are_kept(stages, config, capsys):
    folder = runner.run(config)
    state = folder.state()
    assert stages["ran"] == ["base", "sft", "reward"]
    assert {name: stage["state"] for name, stage in state["stages"].items()} == dict.fromkeys(stages["ran"], "done")
    assert state["stages"]["sft"]["summary"] == {"loss": 0.5}
    assert state["stages"]["sft"]["peak_memory_gb"] > 0 and state["seconds"] >= 0
    said = capsys.readouterr().out
    assert "sft done in" in said and "loss 0.5" in said and "peak memory" in said


def test_a_failed_stage_is_noted_and_the_run_goes_on_there(stages, config):
    stages["sft"] = fail(ValueError("what it was\n" + "  in between\n" * 50 + "no such thing"))
    said = "^stage sft failed: ValueError: what it was\n  … no such thing\nThe whole error is in"
    with pytest.raises(RunError, match=said) as caught:
        runner.run(config)
    folder = RunFolder.open(f"{config.run.folder}/toy")
    assert f"scale-rlhf resume {folder.path}" in str(caught.value)
    assert "Traceback" in (folder.path / "sft" / "error.txt").read_text()
    assert folder.state()["stages"]["sft"]["state"] == "failed"
    del stages["sft"], stages["ran"][:]
    runner.resume(folder.path)
    assert stages["ran"] == ["sft", "reward"] and folder.stages_left() == []
    with pytest.raises(RunError, match="all stages of this run are done"):
        runner.resume(folder.path)


def run_again(config, tmp_path, *changed):
    """`scale-rlhf run --go-on`, as a job that is started again calls it."""
    file = tmp_path / "toy.yaml"
    file.write_text(dump(config))
    return CliRunner().invoke(app, ["run", str(file), "--go-on", *changed])


def test_a_job_that_is_started_again_goes_on_with_its_run_and_then_begins_another(stages, config, tmp_path):
    run_again(config, tmp_path)
    assert stages["ran"] == ["base", "sft", "reward"]
    stages["sft"] = fail(KeyboardInterrupt())
    assert run_again(config, tmp_path).exit_code == STOPPED
    del stages["sft"], stages["ran"][:]
    assert run_again(config, tmp_path, "rollout.engines=2").exit_code == 0
    assert stages["ran"] == ["sft", "reward"] and not (tmp_path / "toy-3").exists()
    folder = RunFolder.open(tmp_path / "toy-2")
    assert folder.config().rollout.engines == 2 and folder.state()["resumed"][0]["changes"] == ["rollout.engines: 1 → 2"]


def test_another_run_is_not_taken_for_the_unfinished_one(stages, config, tmp_path):
    RunFolder.create(config)
    done = run_again(config, tmp_path, "run.seed=8")
    assert done.exit_code == 2 and re.search("cannot go on with\n  run.seed: 0 → 8\n.*run.name=OTHER", done.stderr)
    assert stages["ran"] == []


def test_a_message_for_the_user_stays_what_it_is(stages, config):
    stages["base"] = fail(DataError("base.jsonl:3: no"))
    with pytest.raises(DataError, match="^base.jsonl:3: no\nThe whole error is in .*/base/error.txt. When it is mended"):
        runner.run(config)


def test_ctrl_c_in_a_stage_is_noted(stages, config):
    stages["sft"] = fail(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        runner.run(config)
    states = RunFolder.open(f"{config.run.folder}/toy").state()["stages"]
    assert [stage["state"] for stage in states.values()] == ["done", "stopped", "waiting"]


def test_bad_data_leaves_no_folder(stages, config, tmp_path):
    config.data.max_prompt_tokens = 5
    config.run.stages = ["base", "sft", "reward", "ppo"]
    with pytest.raises(DataError, match="max_prompt_tokens"):
        runner.run(config)
    assert list(tmp_path.iterdir()) == [] and stages["ran"] == []
