"""Ctrl-C and SIGTERM end a run cleanly: no process, no shared-memory file, and the run can be resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from scale_rlhf.cluster.processes import remove_shared_memory, shared_memory_files

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


def metrics_written(folder: Path):
    path = folder / "metrics" / "base.jsonl"
    return path.exists() and path.read_text().count("\n") >= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_run_that_is_stopped_leaves_nothing_behind(tmp_path, number):
    (tmp_path / "toy.yaml").write_text(CONFIG)
    before = shared_memory_files()
    process = subprocess.Popen(
        [sys.executable, "-m", "scale_rlhf.cli", "run", str(tmp_path / "toy.yaml"), f"run.folder={tmp_path}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    folder = tmp_path / "toy"
    try:
        wait(lambda: metrics_written(folder), 120, process)
        ours = psutil.Process(process.pid).children(recursive=True)
        assert any("raylet" in child.name() for child in ours)
        process.send_signal(number)
        said, _ = process.communicate(timeout=40)
    finally:
        process.kill()
    assert process.returncode == 130
    assert f"stopped; go on with: scale-rlhf resume {folder}" in said
    assert "Traceback" not in said
    left = [child for child in ours if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert left == []
    assert remove_shared_memory(before) == []
    state = json.loads((folder / "run.json").read_text())["stages"]
    assert (state["base"]["state"], state["sft"]["state"]) == ("stopped", "waiting")


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
