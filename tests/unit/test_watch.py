"""What a PPO run says of itself between steps: states, queues and faults, in files and in gauges."""

import asyncio
import json
import time
from types import SimpleNamespace

import pytest

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.orchestration import watch as module
from scale_rlhf.orchestration.health import Budget, Health
from scale_rlhf.orchestration.loop import Step
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.orchestration.watch import Watch
from scale_rlhf.telemetry.metrics import read_jsonl
from scale_rlhf.telemetry.spans import Span


@pytest.fixture
def recorded(monkeypatch) -> dict:
    """The last value of each series; counters are added up."""
    series: dict = {}

    def record(name, value, **labels):
        key = (name, *labels.values())
        series[key] = series.get(key, 0) + value if name == "restarts" else value

    monkeypatch.setattr(module.instruments, "record", record)
    return series


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.create(RunConfig(run={"name": "toy", "folder": str(tmp_path)}), ["ppo"])


def roles(ready: bool = True) -> SimpleNamespace:
    engines = Health(["rollout/engine-0", "rollout/engine-1"], time.monotonic, stale=True)
    everyone = [SimpleNamespace(health=engines), SimpleNamespace(health=None), SimpleNamespace()]  # a service; one that begins
    return SimpleNamespace(ready=ready, engines=engines, all=lambda: everyone)


def loop() -> SimpleNamespace:
    return SimpleNamespace(admission=SimpleNamespace(in_flight=12, filtered=1), buffer=SimpleNamespace(ready=3))


def test_states_and_queues_are_told_in_the_file_and_in_gauges(folder, recorded):
    watch, group = Watch(RunConfig(limits={"kl": 9.0}), folder), roles()
    watch.follow(group, loop())
    group.engines.tell(1, "died")
    asyncio.run(watch.look())
    status = json.loads(folder.status.read_text())
    assert [state for _, state, _ in status["members"]] == ["healthy", "dead"]
    assert all(0 <= time.time() - since < 5 for *_, since in status["members"]) and 0 <= time.time() - status["at"] < 5
    assert status["queue"] == {"in_flight": 12, "buffer": 3, "filtered": 1}
    assert recorded["up", "rollout", "engine-0"] == 1 and recorded["up", "rollout", "engine-1"] == 0
    assert recorded["state", "rollout", "engine-1"] == 2 and recorded[("kl_limit",)] == 9.0
    assert recorded[("queue_in_flight",)] == 12 and recorded[("samples_filtered",)] == 1


def test_roles_that_start_are_starting_all_of_them(folder, recorded):
    watch = Watch(RunConfig(), folder)
    watch.follow(roles(ready=False))
    assert {state for _, state, _ in watch.status()["members"]} == {"starting"}
    asyncio.run(watch.look())
    assert recorded["state", "rollout", "engine-0"] == 5 and recorded["up", "rollout", "engine-0"] == 0


def test_faults_are_kept_and_counted_also_those_of_the_controller_before(folder, recorded):
    folder.faults.write_text(json.dumps({"at": 1.0, "who": "controller", "why": "the controller was ended by SIGKILL"}) + "\n")
    watch = Watch(RunConfig(), folder)
    budget = Budget(RunConfig().recovery, time.monotonic, keep=watch.fault)
    budget.spend("rollout engine 1", "its process died; https://me:hunter22@host")
    budget.spend("the run, from its newest checkpoint,", "policy rank 0: gone")
    budget.note("reward replica 0", "it was late")
    faults = read_jsonl(folder.faults)
    assert [fault["who"].split()[0] for fault in faults] == ["controller", "rollout", "the", "reward"]
    assert "hunter22" not in folder.faults.read_text() and abs(faults[1]["at"] - time.time()) < 5
    assert {key[1]: value for key, value in recorded.items() if key[0] == "restarts"} == {
        "controller": 1, "rollout": 1, "run": 1, "reward": 1}


def test_each_process_has_its_idle_share(folder, recorded):
    watch, now = Watch(RunConfig(), folder), time.time()
    lanes = {"rollout/engine-0": [Span("decode", now - 10, now - 2.5)], "rollout/engine-1": [], "controller": []}
    watch.step(Step(1, [], {"time/step": 10.0}, lanes))
    assert recorded["replica_idle_share", "rollout", "engine-0"] == pytest.approx(0.25, abs=0.02)
    assert recorded["replica_idle_share", "rollout", "engine-1"] == 1.0


def test_a_disk_that_is_full_is_no_end(folder, recorded, monkeypatch):
    watch = Watch(RunConfig(), folder)
    watch.follow(roles(), loop())
    monkeypatch.setattr(folder.__class__, "status", folder.path / "nowhere" / "status.json")
    monkeypatch.setattr(folder.__class__, "faults", folder.path / "nowhere" / "faults.jsonl")
    asyncio.run(watch.look())
    watch.fault("rollout engine 0", "gone")
