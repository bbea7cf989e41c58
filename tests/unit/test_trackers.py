"""Weights & Biases and MLflow: off unless asked for, a message where they are not installed, and never the end of a run.

The packages themselves are tried where they are installed: MLflow on a database in a file, Weights & Biases offline.
"""

import re
import time

import pytest

from scale_rlhf.config.checks import check
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError, RunError
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.telemetry import trackers as module
from scale_rlhf.telemetry.metrics import MetricsLog
from scale_rlhf.telemetry.sinks import sinks
from scale_rlhf.telemetry.trackers import Tracker, trackers

PASSWORD = "hunter22hunter22"


def config(tmp_path, **telemetry) -> RunConfig:
    return RunConfig(run={"name": "toy", "folder": str(tmp_path)}, reward={"url": f"https://me:{PASSWORD}@host/score"},
                     telemetry=telemetry)


class Recorder:
    def __init__(self, seconds: float = 0.0, fails: bool = False):
        self.seconds, self.fails, self.calls = seconds, fails, []

    def begin(self, stage):
        self.calls.append(stage)

    def log(self, stage, step, numbers):
        time.sleep(self.seconds)
        if self.fails:
            raise ConnectionError(f"https://me:{PASSWORD}@host is away")
        self.calls.append((stage, step, numbers))

    def close(self, failed):
        self.calls.append(failed)


def test_none_is_there_unless_asked_for(tmp_path):
    assert trackers(config(tmp_path), RunFolder(tmp_path)) == []


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_one_that_is_not_installed_is_named_before_anything_starts(tmp_path, name, monkeypatch):
    monkeypatch.setattr("scale_rlhf.config.checks.find_spec", lambda package: None)
    asked = RunConfig(telemetry={name: {}}, data={"practice": {}})
    with pytest.raises(ConfigError, match=f"telemetry.{name}: the Python package {name} is not installed; pip install {name}"):
        check(asked)
    check(asked, starts=False)  # a login node need not have it


def test_lines_of_all_stages_reach_it_in_order(tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(module, "Mlflow", lambda config, folder: recorder)
    folder = RunFolder.create(config(tmp_path), ["sft", "ppo"])
    with sinks(config(tmp_path, mlflow={}), folder):
        for stage in ("sft", "ppo"):
            with MetricsLog(folder, stage, steps=2) as log:
                log.log(1, {"loss": 2.0, "bad": float("nan")})
    assert recorder.calls == ["sft", ("sft", 1, {"sft/loss": 2.0}), "ppo", ("ppo", 1, {"ppo/loss": 2.0}), False]
    assert folder.state()["steps"] == {"sft": 2, "ppo": 2} and folder.sinks == []


def test_a_run_that_fails_is_told_so(tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(module, "Mlflow", lambda config, folder: recorder)
    folder = RunFolder.create(config(tmp_path), ["ppo"])
    with pytest.raises(RunError), sinks(config(tmp_path, mlflow={}), folder):
        raise RunError("it failed")
    assert recorder.calls == [True]


def test_one_that_is_away_loses_lines_and_says_so_once_without_secrets(capsys):
    tracker = Tracker("mlflow", Recorder(fails=True))
    for step in range(5):
        tracker.log("ppo", step, {"loss": 1.0})
    tracker.close(False)
    said = capsys.readouterr().err
    assert said.count("the run goes on") == 1 and "5 lines were not sent" in said and PASSWORD not in said


def test_one_that_is_slow_keeps_nobody_waiting(capsys, monkeypatch):
    monkeypatch.setattr(module, "WAITING", 3)
    monkeypatch.setattr(module, "LAST_WORDS", 0.2)
    tracker, began = Tracker("wandb", Recorder(seconds=30)), time.monotonic()
    for step in range(100):
        tracker.log("ppo", step, {"loss": 1.0})
    assert time.monotonic() - began < 1
    tracker.close(False)
    assert time.monotonic() - began < 2 and "lines were not sent" in capsys.readouterr().err


def test_one_that_cannot_be_begun_stops_the_run_first(tmp_path, monkeypatch):
    def away(config, folder):
        raise ConnectionError(f"https://me:{PASSWORD}@host refused")

    monkeypatch.setattr(module, "Wandb", away)
    with pytest.raises(RunError, match="telemetry.wandb: it cannot be begun: ConnectionError") as error:
        trackers(config(tmp_path, wandb={}), RunFolder(tmp_path))
    assert PASSWORD not in str(error.value)


def log_twice(settings: RunConfig, folder: RunFolder) -> None:
    """A run of two stages that is interrupted and resumed."""
    for steps in ((1, 2), (3,)):
        with sinks(settings, folder), MetricsLog(folder, "ppo", after=steps[0] - 1) as log:
            for step in steps:
                log.log(step, {"reward/score_mean": step / 2, "loss": 1.0})


def test_mlflow_itself(tmp_path):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow import MlflowClient

    address = f"sqlite:///{tmp_path}/mlflow.db"
    settings = config(tmp_path, mlflow={"tracking_uri": address, "experiment": "alignment"})
    folder = RunFolder.create(settings, ["ppo"])
    log_twice(settings, folder)
    client = MlflowClient(address)
    (run,) = client.search_runs([client.get_experiment_by_name("alignment").experiment_id])
    assert (run.info.run_name, run.info.status) == ("toy", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "ppo/reward/score_mean")
    assert [(one.step, one.value) for one in history] == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert run.data.params["ppo.steps"] == "100" and run.data.params["reward.url"] == "https://***@host/score"
    assert PASSWORD.encode() not in (tmp_path / "mlflow.db").read_bytes()


def test_wandb_itself_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("MY_API_KEY", "sesame-open-12")
    settings = config(tmp_path, wandb={"project": "alignment", "mode": "offline"})
    folder = RunFolder.create(settings, ["ppo"])
    log_twice(settings, folder)
    files = sorted(folder.path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # the resumed one goes on in the same run
    # Protocol-buffer records: a key, its value as JSON behind its tag and its length.
    lines = rb"ppo/reward/score_mean\x82\x01.([\d.]+)\n.{0,40}?ppo/step\x82\x01.(\d)"
    found = {(float(score), int(step)) for file in files for score, step in re.findall(lines, file.read_bytes(), re.DOTALL)}
    assert found == {(0.5, 1), (1.0, 2), (1.5, 3)}
    for file in (path for path in folder.path.rglob("*") if path.is_file()):
        for secret in (PASSWORD, "sesame-open-12"):
            assert secret.encode() not in file.read_bytes(), file
