"""Real faults in a real run: SIGKILL and SIGSTOP of the process of a role, found from outside, as an accident would."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml

from scale_rlhf.cluster.processes import remove_shared_memory, shared_memory_files
from tests.tiny import tiny_policy

ROOT = Path(__file__).resolve().parents[2]

STEPS, BATCH = 14, 6  # of most runs

SMALL = {"cpus": 0.5}
TRAINED = SMALL | {"zero_stage": 2, "learning_rate": 3e-3, "schedule": "linear"}
CONFIG = {
    "run": {"name": "toy", "stages": ["ppo"], "seed": 5},
    "data": {"max_prompt_tokens": 32, "prompts": "prompts.jsonl"},
    "rollout": SMALL | {"max_response_tokens": 12, "kv_cache_gb": 0.05},
    "reward": SMALL | {"function": "tests.chaos.faults:reward"}, "reference": SMALL,
    "policy": TRAINED, "value": TRAINED | {"initial": "policy"},
    "ppo": {"steps": STEPS, "prompts_per_step": BATCH, "kl_target": 1.0, "kl_horizon": 50, "tokens_per_microbatch": 64},
    "overlap": {"score_group": 4}, "checkpoint": {"save_every": "2 steps"}, "recovery": {"backoff_seconds": 0.1},
    "cluster": {"cpus": 5, "dashboard": False, "object_store_gb": 0.1},
}
# How Ray and vLLM call their processes. The function's own process is the reward's.
TITLES = {
    "rollout": "ray::RolloutEngine", "vllm": "VLLM::EngineCor", "reward": "ray::FunctionWorker", "reference": "ray::FrozenServer",
    "policy": "ray::PolicyWorker", "value": "ray::ValueWorker", "controller": f"{sys.executable} -m scale_rlhf.cli",
}


def reward(samples: list[dict]) -> list[float]:
    """The reward function that the runs name by its import path."""
    return [len(set(sample["response_ids"])) / 10 for sample in samples]


def make_home(home: Path) -> Path:
    """A folder with a model, prompts and the configuration."""
    model = tiny_policy(home / "model")
    (home / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"say {n}"}) + "\n" for n in range(10)))
    (home / "toy.yaml").write_text(yaml.safe_dump(CONFIG | {"model": {"path": str(model)}}))
    return home


def same_run(folder: Path, expected: Path, but: tuple[str, ...] = ()) -> None:
    """Samples, metrics but for times and what checkpoints took, and the weights of both models, to the bit.

    but: beginnings of the names of metrics that count what was done, where some was done again.
    """
    but = (*but, "checkpoint/")
    assert lines(folder / "ppo" / "samples.jsonl") == lines(expected / "ppo" / "samples.jsonl")
    found, wanted = ([{key: value for key, value in one.items() if not timed(key) and not key.startswith(but)}
                      for one in lines(place / "metrics" / "ppo.jsonl")] for place in (folder, expected))
    assert found == wanted
    for model in ("ppo", "value"):
        ours, theirs = (place / "models" / model / "model.safetensors" for place in (folder, expected))
        assert ours.read_bytes() == theirs.read_bytes()


def timed(key: str) -> bool:
    """Whether a metric is a time, or follows from times: no two runs have the same.

    Servers count what they did since they were asked last, and may have begun with the next step's samples by then.
    """
    words = ("second", "busy", "fill", "queue", "running", "rollout/", "_server/")
    return key.startswith(("time", "idle")) or any(word in key for word in words)


def lines(path: Path) -> list[dict]:
    """Whole lines of a JSONL file; none where there is no file yet."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


class Run:
    """`scale-rlhf run` in a process of its own, and what can happen to its parts."""

    def __init__(self, home: Path, name: str, *overrides: str, config: str = "toy.yaml"):
        self.home, self.folder = home, home / name
        self.before = shared_memory_files()
        self._start("run", config, f"run.folder={home}", f"run.name={name}", *overrides)

    def _start(self, *words: str) -> None:
        self.log = open(self.home / f"{self.folder.name}.log", "a")  # noqa: SIM115 - the process writes to it
        self.process = subprocess.Popen([*self.command(), *words], cwd=self.home, stdout=self.log, stderr=subprocess.STDOUT,
                                        env=self.environment())

    def command(self) -> list[str]:
        return [sys.executable, "-m", "scale_rlhf.cli"]

    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def resume(self, *overrides: str) -> None:
        self._start("resume", str(self.folder), *overrides)

    @property
    def said(self) -> str:
        return Path(self.log.name).read_text()

    def steps(self) -> list[int]:
        return [line["step"] for line in lines(self.folder / "metrics" / "ppo.jsonl")]

    def until(self, done: Callable[[], object], seconds: float = 240) -> None:
        """Wait for it, while the run goes on."""
        end = time.monotonic() + seconds
        while not done():
            assert self.process.poll() is None, self.said[-3000:]
            assert time.monotonic() < end, self.said[-3000:]
            time.sleep(0.05)

    def of(self, role: str) -> list[psutil.Process]:
        """The processes of a role."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [one for one in children if _title(one).startswith(TITLES[role])]

    def send(self, role: str, number: int = signal.SIGKILL, place: int = 0) -> psutil.Process:
        """The signal to one process of the role."""
        self.until(lambda: len(self.of(role)) > place)
        one = self.of(role)[place]
        one.send_signal(number)
        return one

    def kill_everything(self) -> None:
        everyone = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for one in everyone:
            try:
                one.kill()
            except psutil.Error:
                continue
        self.process.wait(30)
        psutil.wait_procs(everyone[1:], timeout=20)

    def finish(self, seconds: float = 400) -> str:
        """What it said, once it has ended well."""
        self.process.wait(seconds)
        assert self.process.returncode == 0, self.said[-3000:]
        return self.said

    def clean(self) -> None:
        """End whatever is left, and remove what killed processes left in shared memory."""
        if self.process.poll() is None:
            self.kill_everything()
        remove_shared_memory(self.before)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
