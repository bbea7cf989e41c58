"""Runs handed to a real cluster through its job server, with token authentication, and the doctor of two nodes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from scale_rlhf.cluster.processes import end, remove_shared_memory, shared_memory_files
from scale_rlhf.orchestration import ledger
from tests.chaos.faults import BATCH, CONFIG, lines
from tests.tiny import tiny_policy

ROOT = Path(__file__).resolve().parents[2]
RAY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}  # 0: on loopback


class Place:
    """A cluster, a shared folder, and a user's folder from which runs are handed in."""

    def __init__(self, home: Path):
        self.home, self.shared = home / "user", home / "shared"
        self.home.mkdir()
        model = tiny_policy(self.shared / "model")
        (self.shared / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"say {n}"}) + "\n" for n in range(10)))
        (self.home / "brevity.py").write_text(
            "from pathlib import Path\nWORTH = float(Path(__file__).with_name('worth.txt').read_text())\n\n\n"
            "def reward(samples):\n    return [WORTH * len(set(sample['response_ids'])) for sample in samples]\n")
        (self.home / "worth.txt").write_text("0.1")
        (self.home / ".env").write_text("TOKEN=of-something-else")
        config = {key: section for key, section in CONFIG.items() if key != "cluster"} | {
            "run": {"name": "toy", "stages": ["ppo"], "seed": 5, "folder": str(self.shared / "runs")},
            "model": {"path": str(model)}, "data": CONFIG["data"] | {"prompts": str(self.shared / "prompts.jsonl")},
            "reward": {"cpus": 0.5, "function": "brevity:reward"},
        }
        (self.home / "toy.yaml").write_text(yaml.safe_dump(config))
        (home / "token").write_text("0123456789abcdef" * 4)
        (home / "token").chmod(0o600)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        # Where this Python is, its scale-rlhf is too.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = kept | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                                   "PYTHONUNBUFFERED": "1", "RAY_AUTH_TOKEN_PATH": str(home / "token")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.job_cluster"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=ROOT, env=self.environment | RAY)
        addresses = json.loads(self.process.stdout.readline())
        self.address, self.dashboard = addresses["address"], addresses["dashboard"]

    def start(self, *words: object, **variables: str) -> subprocess.Popen:
        """A command, from the user's folder, by who knows no more than the token."""
        return subprocess.Popen([sys.executable, "-m", "scale_rlhf.cli", *map(str, words)], cwd=self.home, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.environment | variables)

    def call(self, *words: object, status: int = 0, **variables: str) -> str:
        process = self.start(*words, **variables)
        said, _ = process.communicate(timeout=280)
        assert process.returncode == status, said[-4000:]
        assert self.environment["RAY_AUTH_TOKEN_PATH"] not in said and "0123456789abcdef" not in said
        return said

    def until(self, done, seconds: float = 240) -> None:
        limit = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < limit
            time.sleep(0.2)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    before = shared_memory_files()
    place = Place(tmp_path_factory.mktemp("cluster"))
    everyone = psutil.Process(place.process.pid).children(recursive=True)
    yield place
    everyone += psutil.Process(place.process.pid).children(recursive=True)
    place.process.stdin.close()
    place.process.wait(60)
    end([one for one in everyone if one.is_running()])
    remove_shared_memory(before)


@pytest.mark.timeout(400)
def test_a_run_is_handed_in_and_ends(place):
    said = place.call("submit", "toy.yaml", "ppo.steps=3", "--address", place.dashboard)
    job = re.search(r"toy is job (toy-\w+) of", said)[1]
    folder = place.shared / "runs" / "toy"
    assert f"toy: ppo in {folder}" in said and "ppo 3/3" in said
    assert (folder / "models" / "ppo" / "model.safetensors").is_file()
    assert ledger.account(folder / "ppo", 3 * BATCH)["trained"] == 3 * BATCH
    status = place.call("status", "toy", "--address", place.dashboard)
    for words in (f"job        {job}", "state      succeeded", "stage      ppo", "step       ppo 3/3", f"folder     {folder}"):
        assert words in status, status
    assert "ppo 3/3" in place.call("logs", job, "--no-follow", "--address", place.dashboard)
    assert job in place.call("status", "--address", place.dashboard)


def test_a_run_that_fails_returns_its_status(place):
    said = place.call("submit", "toy.yaml", "run.name=wrong", "model.path=/nowhere/model", "--address", place.dashboard, status=2)
    assert "/nowhere/model is not on this machine" in said  # said before
    assert "model.path: model folder /nowhere/model does not exist" in said  # said by the run
    assert "failed with exit status 2" in place.call("status", "wrong", "--address", place.dashboard)
    assert "already: failed" in place.call("stop", "wrong", "--address", place.dashboard)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_ctrl_c_lets_go_stop_ends_and_resume_goes_on(place):
    folder = place.shared / "runs" / "long"
    metrics = folder / "metrics" / "ppo.jsonl"
    watching = place.start("submit", "toy.yaml", "run.name=long", "ppo.steps=500", "--address", place.dashboard)
    try:
        place.until(lambda: len(lines(metrics)) >= 4)
        watching.send_signal(signal.SIGINT)
        said, _ = watching.communicate(timeout=30)
    finally:
        watching.kill()
    assert watching.returncode == 130 and "which goes on. See it again with: scale-rlhf logs long-" in said
    at = len(lines(metrics))
    place.until(lambda: len(lines(metrics)) > at)
    status = place.call("status", "long", "--address", place.dashboard)
    assert "state      running since" in status and re.search(r"step       ppo \d+/500", status)
    stopped = place.call("stop", "long", "--address", place.dashboard)
    assert f"stopped; go on with: scale-rlhf submit --resume {folder}" in stopped
    assert json.loads((folder / "run.json").read_text())["stages"]["ppo"]["state"] == "stopped"
    log = place.call("logs", "long", "--address", place.dashboard, status=130)
    assert f"stopped; go on with: scale-rlhf resume {folder}" in log and "Traceback" not in log
    steps = len(lines(metrics)) + 3
    place.call("submit", "--resume", folder, f"ppo.steps={steps}", "--address", place.dashboard)
    assert [line["step"] for line in lines(metrics)] == list(range(1, steps + 1))
    assert ledger.account(folder / "ppo", steps * BATCH)["trained"] == steps * BATCH


def test_who_has_another_token_is_told(place, tmp_path):
    (tmp_path / "other").write_text("f" * 64)
    said = place.call("status", "--address", place.dashboard, status=2, RAY_AUTH_TOKEN_PATH=str(tmp_path / "other"))
    assert "asks for the cluster's token, and ours is missing or another" in said and "Traceback" not in said


@pytest.mark.parametrize("way", ["joined", "job"])
def test_the_doctor_of_two_nodes(place, way):
    """From one of its nodes, and from a machine that reaches the dashboard alone."""
    address, variables = (place.address, RAY) if way == "joined" else (place.dashboard, {})
    report = json.loads(place.call("doctor", "toy.yaml", "--json", "--address", address, **variables).splitlines()[-1])
    facts, found = report["facts"], report["findings"]
    assert report["ok"] and not [one for one in found if one["severity"] == "error"]
    assert len(facts["nodes"]) == 2 and facts["cluster"] and facts["silent"] == {}
    assert {node["run_folder"] for node in facts["nodes"]} == {""}
    assert all(node["packages"]["ray"] == "2.60.0" and abs(node["clock"]) < 0.5 for node in facts["nodes"])
    assert [link["problem"] for link in facts["links"]] == [None, None] and min(one["bandwidth"] for one in facts["links"]) > 1e7
    assert [(one["backend"], one["problem"]) for one in facts["collectives"]] == [("gloo", None)] * 2


def test_the_doctor_says_what_does_not_fit(place):
    said = place.call("doctor", "toy.yaml", "policy.cpus=9", "run.folder=runs", "--address", place.dashboard, status=1)
    assert "stage ppo asks for 11 CPUs and 0 GPUs, and the cluster has 5" in said
    assert "runs is relative" in said and said.count("cure: ") >= 2


@pytest.mark.long
def test_a_node_that_hangs_is_a_finding(place):
    """The last test: the cluster has lost a node after it."""
    raylets = [one for one in psutil.Process(place.process.pid).children(recursive=True) if one.name() == "raylet"]
    assert len(raylets) == 2
    other = max(raylets, key=lambda one: one.create_time())
    other.suspend()
    try:
        start = time.monotonic()
        said = place.call("doctor", "--address", place.address, status=1, **RAY)
        assert time.monotonic() - start < 150
        assert "the node does not answer: " in said and "ray list nodes" in said
        assert "all-reduce over gloo: 1 of 1 ranks" in said  # of the node that is well
    finally:
        other.resume()
