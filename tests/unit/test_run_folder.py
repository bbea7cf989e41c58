"""The folder of a run: never overwritten, whole or absent, without secrets, and it knows where to go on."""

import json

import pytest

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError, RunError
from scale_rlhf.orchestration.run_folder import RunFolder, check_free, unfinished, without_secrets, write_atomically
from scale_rlhf.stages import runner


def config(tmp_path, **sections) -> RunConfig:
    return RunConfig(run={"name": "toy", "folder": str(tmp_path / "runs"), "seed": 7}, **sections)


def test_a_run_is_never_overwritten(tmp_path):
    made = [RunFolder.create(config(tmp_path)).name for _ in range(3)]
    assert made == ["toy", "toy-2", "toy-3"]


def test_a_new_folder_says_what_makes_the_run(tmp_path):
    folder = RunFolder.create(config(tmp_path, data={"practice": {"seed": 3}}))
    environment = json.loads((folder.path / "environment.json").read_text())
    assert environment["seeds"] == {"run": 7, "practice": 3} and environment["packages"]["torch"] and environment["cpus"] > 0
    assert folder.config() == config(tmp_path, data={"practice": {"seed": 3}})
    assert folder.stages_left() == ["base", "sft", "reward", "ppo", "evaluate"]


def test_paths_of_a_run(tmp_path):
    folder = RunFolder.create(config(tmp_path))
    assert folder.model("sft") == folder.path / "models" / "sft"
    assert folder.metrics("ppo") == folder.path / "metrics" / "ppo.jsonl" and folder.metrics("ppo").parent.is_dir()
    assert folder.tensorboard("ppo").is_dir() and folder.data.is_dir() and folder.stage("ppo") == folder.path / "ppo"


@pytest.mark.parametrize("content", ["file in it", "a file", "a foreign run.json"])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, content):
    place = tmp_path / "runs" / "toy"
    place.parent.mkdir()
    if content == "a file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / ("run.json" if "json" in content else "thesis.tex")).write_text('{"made_by": "another program"}')
    for attempt in (lambda: RunFolder.create(config(tmp_path)), lambda: check_free(tmp_path / "runs", "toy")):
        with pytest.raises(RunError, match="runs/toy holds something that is not a run of scale-rlhf.*Give run.name=OTHER"):
            attempt()


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "runs" / "toy").mkdir(parents=True)
    check_free(tmp_path / "runs", "toy")
    assert RunFolder.create(config(tmp_path)).name == "toy"


def test_a_file_where_the_runs_should_be(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError, match="runs holds something that is not a run"):
        RunFolder.create(config(tmp_path))


def test_stages_that_are_done_are_kept(tmp_path):
    folder = RunFolder.create(config(tmp_path), ["base", "sft", "ppo"])
    folder.set_stage("base", "done", seconds=1.5)
    folder.set_stage("sft", "failed", error="no memory")
    again = RunFolder.open(folder.path)
    assert again.stages_left() == ["sft", "ppo"]
    assert again.state()["stages"]["base"]["seconds"] == 1.5


def test_opening_what_is_no_run(tmp_path):
    with pytest.raises(RunError, match="there is no such folder; expected the folder of a run"):
        RunFolder.open(tmp_path / "nothing")
    with pytest.raises(RunError, match="not the folder of a run: it has no run.json"):
        RunFolder.open(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    write_atomically(path, "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_secrets_are_not_written_and_are_asked_for_again(tmp_path):
    folder = RunFolder.create(config(tmp_path, reward={"url": "https://me:pass-word@host/score?api_key=abc&x=1"}))
    text = (folder.path / "config.yaml").read_text()
    assert "https://***@host/score?api_key=***&x=1" in text
    assert not any("pass-word" in file.read_text() or "abc" in file.read_text() for file in folder.path.glob("*.*"))
    with pytest.raises(RunError, match="hides a password; give the whole key once more as key.path=value"):
        folder.config()
    assert folder.config(["reward.url=https://a:b@host/"]).reward.url == "https://a:b@host/"


def test_what_is_no_secret_stays():
    text = "url: http://host:8000/score?x=1\npath: a@b\nstop_token_ids: []\n"
    assert without_secrets(text) == text


def test_the_newest_run_of_a_name_is_unfinished_or_not(tmp_path):
    parent = tmp_path / "runs"
    assert unfinished(parent, "toy") is None
    first, second = (RunFolder.create(config(tmp_path), stages=["sft"]) for _ in range(2))
    assert unfinished(parent, "toy").path == second.path
    second.set_stage("sft", "done")
    assert unfinished(parent, "toy") is None and first.stages_left() == ["sft"]


def test_a_resumed_run_keeps_what_changed(tmp_path):
    folder = RunFolder.create(config(tmp_path))
    changed = config(tmp_path, rollout={"engines": 3})
    folder.go_on(changed, ["rollout.engines: 1 → 3"])
    assert folder.config() == changed and folder.state()["resumed"][0]["changes"] == ["rollout.engines: 1 → 3"]


def test_harmful_changes_are_refused_unless_forced(tmp_path):
    folder = RunFolder.create(config(tmp_path))
    with pytest.raises(ConfigError, match=r"cannot go on with\n  run.seed: 7 → 8\n  ppo.prompts_per_step: 64 → 8\n.*--force"):
        runner.resume(folder.path, ["run.seed=8", "ppo.prompts_per_step=8", "rollout.engines=2"])
    assert "resumed" not in folder.state()
