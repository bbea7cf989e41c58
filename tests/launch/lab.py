"""A tiny run for a cluster of two hosts with 1 and 2 CPUs, and what is left of Ray on them."""

import os
from pathlib import Path

import psutil
import yaml

from tests.chaos.faults import BATCH, CONFIG, ROOT, STEPS, lines, make_home
from tests.launch.hosts import Hosts

CPUS = [1, 2]  # five processes of half a CPU fill the first and spill over to the second
SAMPLES = STEPS * BATCH


def make_lab(home: Path) -> Path:
    """lab.yaml, with a model and prompts, in `home`; returns it."""
    make_home(home)
    config = {name: section for name, section in CONFIG.items() if name != "cluster"}
    config |= {"model": {"path": str(home / "model")}, "data": CONFIG["data"] | {"prompts": str(home / "prompts.jsonl")}}
    (home / "lab.yaml").write_text(yaml.safe_dump(config))
    return home / "lab.yaml"


def environment(home: Path) -> dict[str, str]:
    """What a launcher and the run find: this source, and a token of their own."""
    found = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PATH": os.environ["PATH"]}
    return found | {"RAY_AUTH_TOKEN_PATH": str(home / "token")}


def steps(run: Path) -> list[int]:
    """Steps of a run's folder that are done."""
    return [line["step"] for line in lines(run / "metrics" / "ppo.jsonl")]


def of_ray(hosts: Hosts) -> list[str]:
    """Command lines of Ray's and the run's processes on the hosts."""
    found = []
    for name in hosts.addresses:
        for pid in hosts.processes(name):
            try:
                found.append(" ".join(psutil.Process(pid).cmdline()))
            except psutil.Error:  # it has ended
                continue
    return [one for one in found if any(word in one for word in ("ray::", "raylet", "gcs_server", "scale_rlhf", "VLLM::"))]
