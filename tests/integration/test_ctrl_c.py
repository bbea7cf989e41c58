"""Ctrl-C and SIGTERM end a run cleanly: no process, no shared-memory file, no socket, and the run can be resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from scale_rlhf.cluster.processes import remove_shared_memory, remove_socket_folders, shared_memory_files
from tests.tiny import tiny_policy

ROOT = Path(__file__).parents[2]

CONFIG = """
run: {name: toy, stages: [base, sft]}
data: {practice: {base_lines: 400, demonstrations: 100, rated_prompts: 20, prompts: 20}}
base: {workers: 2, epochs: 1000, cpus: 1}
sft: {max_steps: 1}
cluster: {cpus: 2, dashboard: false, object_store_gb: 0.1}
"""


def wait(what, seconds: float, process: subprocess.Popen):
    """The first true result of what(), within `seconds`, while the process lives."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.3)
    raise AssertionError("it did not come to that in time")


def start(tmp_path: Path, stage: str, *overrides: str) -> subprocess.Popen:
    """A run in a process of its own, started from `tmp_path`."""
    (tmp_path / "toy.yaml").write_text(CONFIG)
    temporary = tempfile.mkdtemp(prefix="tmp-")
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), "TMPDIR": temporary}
    command = [sys.executable, "-m", "scale_rlhf.cli", stage, "toy.yaml", f"run.folder={tmp_path}", "run.name=toy", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)
    process.temporary = Path(temporary)
    return process


def two_steps(metrics: Path) -> Callable[[list[psutil.Process]], bool]:
    return lambda processes: metrics.exists() and metrics.read_text().count("\n") >= 2


def stop(process: subprocess.Popen, number: int, ready: Callable[[list[psutil.Process]], bool]) -> str:
    """Sends the signal once it is ready(its processes); asserts that nothing is left; returns what the run printed."""
    before = shared_memory_files()
    ours: dict[int, psutil.Process] = {}

    def seen():
        children = psutil.Process(process.pid).children(recursive=True)
        ours.update((child.pid, child) for child in children)
        return ready(children)

    try:
        wait(seen, 180, process)
        assert any("raylet" in child.name() for child in ours.values() if child.is_running())
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    left = [child for child in ours.values() if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert left == []
    assert remove_shared_memory(before) == []
    # Ray's logs, and torch's cache: both are kept for later, on purpose.
    assert not [path for path in process.temporary.iterdir() if not path.name.startswith(("ray", "torchinductor_"))]
    shutil.rmtree(process.temporary)
    assert process.returncode == 130
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("number", [
    pytest.param(signal.SIGINT, id="ctrl-c"), pytest.param(signal.SIGTERM, id="sigterm", marks=pytest.mark.long),
])
def test_a_run_that_is_stopped_leaves_nothing_behind(tmp_path, number):
    folder = tmp_path / "toy"
    said = stop(start(tmp_path, "run"), number, two_steps(folder / "metrics" / "base.jsonl"))
    assert f"stopped; go on with: scale-rlhf resume {folder}" in said
    state = json.loads((folder / "run.json").read_text())["stages"]
    assert (state["base"]["state"], state["sft"]["state"]) == ("stopped", "waiting")


@pytest.mark.long
def test_five_roles_that_are_stopped_leave_nothing_behind(tmp_path):
    """The engine's own child processes, DeepSpeed's buffers and published weights included."""
    model = tiny_policy(tmp_path / "model")
    (tmp_path / "brevity.py").write_text("def reward(samples):\n    return [-len(s['response_ids']) / 10 for s in samples]\n")
    process = start(
        tmp_path, "ppo", f"model.path={model}", "reward.function=brevity:reward", "value.initial=policy", "ppo.steps=10000",
        "ppo.prompts_per_step=8", "rollout.max_response_tokens=16", "cluster.cpus=8",
    )
    said = stop(process, signal.SIGINT, two_steps(tmp_path / "toy" / "metrics" / "ppo.jsonl"))
    assert "scale-rlhf resume" in said


@pytest.mark.long
def test_an_evaluation_that_is_stopped_leaves_nothing_behind(tmp_path):
    """While the engine answers, and never ends: 2000 prompts with 200 tokens each."""
    model = tiny_policy(tmp_path / "model")
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"say {n}"}) + "\n" for n in range(2000)))
    data = ["data.practice=null", "data.prompts=prompts.jsonl", "data.evaluation=prompts.jsonl"]
    process = start(tmp_path, "evaluate", f"model.path={model}", *data, "rollout.max_response_tokens=200",
                    "data.max_prompt_tokens=32", "rollout.ignore_end=true", "cluster.cpus=8")
    seconds = iter(range(50))  # a third of one each: the engine's processes are there, and have begun
    said = stop(process, signal.SIGINT, lambda children: any("EngineCor" in " ".join(one.cmdline()) for one in children
                                                             if one.is_running()) and next(seconds) == 30)
    assert "scale-rlhf resume" in said


def test_shared_memory_of_living_processes_stays():
    from multiprocessing.shared_memory import SharedMemory

    before = shared_memory_files()
    alive, dead = SharedMemory(create=True, size=100), SharedMemory(create=True, size=100)
    dead.close()
    try:
        removed = [path.name for path in remove_shared_memory(before)]
        assert dead.name in removed and alive.name not in removed
    finally:
        alive.close()
        alive.unlink()
        dead.unlink() if Path(f"/dev/shm/{dead.name}").exists() else None


def test_socket_folders_of_living_processes_stay():
    """A process is killed, and another lives: the first one's folder goes."""
    code = "from scale_rlhf.cluster.processes import socket_folder; print(socket_folder(), flush=True); input()"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                  env=os.environ | {"PYTHONPATH": str(ROOT)}) for _ in range(2)]
    dead, alive = (Path(process.stdout.readline().strip()) for process in processes)
    try:
        assert dead.stat().st_mode & 0o777 == 0o700 and dead.is_dir() and alive.is_dir()
        processes[0].kill()
        processes[0].wait()
        remove_socket_folders()
        assert alive.is_dir() and not dead.exists()
    finally:
        processes[1].kill()
        processes[1].wait()
        remove_socket_folders()
    assert not alive.exists()
