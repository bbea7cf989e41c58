"""`scale-rlhf top`: what a run's folder tells, in one frame."""

import io
import json
import time

import pytest
from rich.console import Console
from typer.testing import CliRunner

from scale_rlhf.cli import app
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.telemetry.snapshot import snapshot
from scale_rlhf.telemetry.top import frame

LINE = {"reward/score_mean": 1.25, "kl/reference_mean": 0.5, "idle/rollout": 0.25, "idle/policy": 0.6,
        "rollout/tokens_per_second": 900.0, "reference_server/tokens_per_second": 4000.0, "tokens/per_second": 300.0}


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    """A PPO stage at step 30 of 100, 2 s a step; one of two engines is being started again."""
    folder = RunFolder.create(RunConfig(run={"name": "toy", "folder": str(tmp_path)}), ["sft", "ppo"])
    folder.set_stage("sft", "done", seconds=61.0)
    folder.set_stage("ppo", "running")
    folder.note(steps={"ppo": 100})
    lines = [{"step": step, "time": 2.0 * step} | LINE for step in range(1, 31)]
    folder.metrics("ppo").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 31, "ti')
    now = time.time()
    members = [["rollout/engine-0", "healthy", now - 90], ["rollout/engine-1", "restarting", now - 7],
               ["reference/0", "healthy", now - 90], ["policy/0", "healthy", now - 90]]
    folder.status.write_text(json.dumps({"at": now, "members": members, "queue": {"in_flight": 12, "buffer": 3, "filtered": 0}}))
    why = "rollout engine 1: sample 7 failed: its process died (pid 8)\n  more"
    folder.faults.write_text(json.dumps({"at": now, "who": "rollout engine 1", "why": why}) + "\n")
    return folder


def shown(folder: RunFolder, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(frame(snapshot(folder)))
    return console.file.getvalue()


def test_a_frame_has_what_one_asks_for(folder):
    text = shown(folder)
    for words in ("sft done 1:01", "ppo running", "ppo 30/100", "2 s a step", "about 2:20 left", "score +1.250", "1 of 2 healthy",
                  "rollout/engine-1", "restarting", "0:07", "75%", "900", "4000", "12 in flight", "3 buffer",
                  "rollout engine 1", "its process died (pid 8)"):
        assert words in text, (words, text)
    assert "more" not in text and "no news" not in text


def test_the_command_prints_one_frame_into_a_pipe(folder):
    for words in (["top", str(folder.path), "--once"], ["top", str(folder.path)]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0 and "ppo 30/100" in done.stdout


def test_a_controller_that_says_nothing_is_named(folder):
    status = json.loads(folder.status.read_text())
    folder.status.write_text(json.dumps(status | {"at": time.time() - 75}))
    assert "no news of the controller for 1:15" in shown(folder)


def test_a_supervised_stage_and_one_without_lines(folder):
    folder.set_stage("ppo", "waiting")
    folder.set_stage("sft", "running")
    folder.metrics("sft").write_text('{"step": 1, "time": 1.0, "loss": 2.5}\n')
    text = shown(folder)
    assert "sft 1\n" in text and "loss 2.5" in text and "rollout" not in text.split("last of 1 faults")[0]
    folder.metrics("sft").unlink()
    assert "sft 0" in shown(folder)


def test_only_the_end_of_a_long_file_is_read(folder):
    with folder.metrics("ppo").open("w") as file:
        for step in range(1, 5001):
            file.write(json.dumps({"step": step, "time": 0.5 * step} | LINE) + "\n")
    seen = snapshot(folder)
    assert (seen.step, seen.step_seconds) == (5000, 0.5)


def test_what_is_no_run_is_said(tmp_path):
    done = CliRunner().invoke(app, ["top", str(tmp_path / "nowhere")])
    assert done.exit_code == 2 and "there is no such folder" in done.stderr
