"""A run whose every process is killed goes on from its last checkpoint: the same run, bit for bit, or at least no work lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from scale_rlhf.cluster.processes import remove_shared_memory, shared_memory_files
from scale_rlhf.orchestration import ledger
from tests.integration.test_whole_run import _timed, lines
from tests.tiny import tiny_policy

ROOT = Path(__file__).resolve().parents[2]
STEPS, BATCH = 6, 6

SMALL = {"cpus": 0.5}
TRAINED = SMALL | {"zero_stage": 2, "learning_rate": 3e-3, "schedule": "linear"}
CONFIG = {
    "run": {"name": "toy", "stages": ["ppo"], "seed": 5},
    "data": {"max_prompt_tokens": 32, "prompts": "prompts.jsonl"},
    "rollout": SMALL | {"max_response_tokens": 12, "kv_cache_gb": 0.05},
    "reward": SMALL | {"function": "tests.integration.test_resume:reward"}, "reference": SMALL,
    "policy": TRAINED, "value": TRAINED | {"initial": "policy"},
    "ppo": {"steps": STEPS, "prompts_per_step": BATCH, "kl_target": 1.0, "kl_horizon": 50, "tokens_per_microbatch": 64},
    "overlap": {"score_group": 4}, "checkpoint": {"save_every": "2 steps"},
    "cluster": {"cpus": 4, "dashboard": False, "object_store_gb": 0.1},
}


def reward(samples: list[dict]) -> list[float]:
    """The reward function that the runs name by its import path."""
    return [len(set(sample["response_ids"])) / 10 for sample in samples]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model, prompts and the configuration."""
    home = tmp_path_factory.mktemp("resume")
    model = tiny_policy(home / "model")
    (home / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"say {n}"}) + "\n" for n in range(10)))
    (home / "toy.yaml").write_text(yaml.safe_dump(CONFIG | {"model": {"path": str(model)}}))
    return home


def command(home: Path, *words: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "scale_rlhf.cli", *words], cwd=home, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, env=environment)


def finish(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def run(home: Path, name: str, *overrides: str) -> Path:
    finish(command(home, "run", "toy.yaml", f"run.folder={home}", f"run.name={name}", *overrides))
    return home / name


def kill_at(home: Path, name: str, step: int, *overrides: str) -> Path:
    """A run of which every process is killed once it has made `step` steps, and its checkpoint before that is whole."""
    before = shared_memory_files()
    process = command(home, "run", "toy.yaml", f"run.folder={home}", f"run.name={name}", *overrides)
    folder, end = home / name, time.monotonic() + 240
    last = folder / "ppo" / "checkpoints" / f"step-{step // 2 * 2:06d}"
    try:
        while not (last.is_dir() and len(lines(folder / "metrics" / "ppo.jsonl")) >= step):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in everyone:
            os.kill(one.pid, signal.SIGKILL)
        process.communicate()
    psutil.wait_procs(everyone[1:], timeout=20)
    remove_shared_memory(before)
    return folder


def same_run(folder: Path, expected: Path) -> None:
    """Samples, metrics but for times, and the weights of both models, to the bit."""
    assert lines(folder / "ppo" / "samples.jsonl") == lines(expected / "ppo" / "samples.jsonl")
    found, wanted = ([{key: value for key, value in one.items() if not _timed(key) and not key.startswith("checkpoint/")}
                      for one in lines(place / "metrics" / "ppo.jsonl")] for place in (folder, expected))
    assert found == wanted
    for model in ("ppo", "value"):
        ours, theirs = (place / "models" / model / "model.safetensors" for place in (folder, expected))
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.fixture(scope="module")
def whole(home):
    return run(home, "whole")


@pytest.mark.timeout(900)
def test_a_killed_run_goes_on_bit_for_bit(home, whole):
    """After step 5 of 6; the checkpoint of step 4 is damaged, so it goes on from step 2, and steps 3 to 5 are void."""
    folder = kill_at(home, "killed", STEPS - 1)
    damaged = folder / "ppo" / "checkpoints" / "step-000004" / "policy" / "rank-0000.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    before = lines(folder / "ppo" / "samples.jsonl")
    said = finish(command(home, "resume", str(folder)))
    assert "checkpoint step-000004 is damaged and not used: policy/rank-0000.safetensors is not what was written" in said
    assert "ppo goes on from step 2" in said
    same_run(folder, whole)
    void = lines(folder / "ppo" / ledger.VOID)
    assert [one["index"] for one in void] == [one["index"] for one in before if one["step"] > 2] != []
    assert ledger.account(folder / "ppo", STEPS * BATCH)["trained"] == STEPS * BATCH


@pytest.mark.timeout(900)
def test_an_overlapped_run_trains_every_prompt_once_whatever_was_killed(home):
    """With two engines and one policy rank before, one engine and two ranks after."""
    settings = ["overlap.max_staleness=2", "rollout.engines=2"]
    folder = kill_at(home, "overlapped", 3, *settings)
    said = finish(command(home, "resume", str(folder), "rollout.engines=1", "policy.workers=2"))
    assert "rollout.engines: 2 → 1" in said
    samples = lines(folder / "ppo" / "samples.jsonl")
    assert sorted(one["index"] for one in samples) == list(range(STEPS * BATCH))
    assert [one["step"] for one in lines(folder / "metrics" / "ppo.jsonl")] == list(range(1, STEPS + 1))
    assert all(one["staleness/max"] <= 2 for one in lines(folder / "metrics" / "ppo.jsonl"))
