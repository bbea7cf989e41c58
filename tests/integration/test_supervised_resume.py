"""base, sft and reward go on from their last checkpoint, and make the model that they would have made without a stop."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.torch import load_file

from scale_rlhf.config.load import load_config
from scale_rlhf.config.schema import ModelSection
from scale_rlhf.config.supervised import RewardModelSection, SftSection
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.training.layout import lay_out
from scale_rlhf.training.resuming import CHECKPOINTS, going_on
from scale_rlhf.training.supervised import Job, write_inputs
from tests.tiny import tiny_policy

ROOT = Path(__file__).parents[2]

# 41 samples in steps of 7, forwards of 3: every step is filled up, the last one is short. Checkpoints after steps 2 and 4.
SETTINGS = {"epochs": 1.41, "batch_size": 7, "microbatch": 3, "save_every": 2, "zero_stage": 2, "warmup_steps": 3}
VARIANTS = {
    "zero 0": {"zero_stage": 0}, "zero 3": {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True},
    "bfloat16": {"dtype": "bfloat16"}, "packed": {}, "reward": {}, "judged": {"feedback": "rankings"}, "other forwards": {},
}


def job(folder, start, settings, *, packed=False, kind="language") -> Job:
    """A stage on 29 samples of random tokens."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    from scale_rlhf.stages import sft

    random = np.random.default_rng(0)
    texts = [random.integers(4, 300, random.integers(5, 20)).tolist() for _ in range(58)]
    judged = {"texts": [texts[i : i + 2] for i in range(29)], "targets": [[[1.0, 0.0]]] * 29, "lengths": [[3, 4]] * 29}
    if kind == "reward":
        rows = Dataset.from_dict({"chosen_ids": texts[:29], "rejected_ids": texts[29:], "margin": [0.5] * 29})
    elif kind == "judged":
        rows = Dataset.from_dict(judged)
    else:
        rows = Dataset.from_dict({"input_ids": texts[:29], "labels": [[-100] * 2 + text[2:] for text in texts[:29]]})
    if packed:
        rows = sft.packed(rows, 32)
    section = (SftSection if kind == "language" else RewardModelSection)(**SETTINGS | settings)
    layout = lay_out([20] * len(rows), section, 0)
    folder.mkdir()
    made = Job(kind, section, ModelSection(), str(start), 0, layout, folder, folder / "out", packed)
    held_out = rows if kind == "language" else Dataset.from_dict(judged)
    write_inputs(made, AutoTokenizer.from_pretrained(start), rows, held_out.select(range(3)))
    return made


@pytest.fixture(scope="module")
def pairs(cluster, tmp_path_factory):
    """{variant: (a job that ran through, the same from its checkpoint after step 2)}"""
    from scale_rlhf.training.supervised_worker import work

    folder = tmp_path_factory.mktemp("variants")
    start = tiny_policy(folder / "start")

    def made(name: str, settings: dict, place: str) -> Job:
        kind = name if name in ("reward", "judged") else "language"
        return job(folder / f"{name} {place}", start, settings, packed=name == "packed", kind=kind)

    def both(name: str, settings: dict) -> tuple[Job, Job]:
        """The Trainer leaves the checkpoints of the whole one in place: one of them is what a stop after it would have left."""
        whole = going_on(made(name, settings, "whole"), "sft", "sft")
        work({"job": whole})
        again = made(name, settings | ({"microbatch": 7} if name == "other forwards" else {}), "resumed")
        shutil.copytree(whole.work / CHECKPOINTS / "checkpoint-2", again.work / CHECKPOINTS / "checkpoint-2")
        resumed = going_on(again, "sft", "sft")
        work({"job": resumed})
        return whole, resumed

    return cluster.get(cluster.remote(num_cpus=1, max_calls=1)(in_one_group).remote(both, VARIANTS), timeout=200)


def in_one_group(function, arguments: dict) -> dict:
    """{name: function(name, argument)} in a process that is the only rank of its group."""
    import torch.distributed as dist
    from accelerate.state import AcceleratorState, PartialState

    from scale_rlhf.training.process_group import free_port

    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    dist.init_process_group("gloo")
    results = {}
    for name, argument in arguments.items():
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()
        results[name] = function(name, argument)
    dist.destroy_process_group()
    return results


def progress(job: Job) -> list[dict]:
    return [json.loads(line) for line in (job.work / "progress.jsonl").read_text().splitlines()]


def weights(job: Job) -> dict:
    return load_file(job.out / "model.safetensors")


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "other forwards"])
def test_a_stage_goes_on_to_the_same_model_bit_for_bit(pairs, name):
    whole, resumed = pairs[name]
    assert resumed.done == 2 and len(progress(whole)) > 2
    assert progress(resumed) == progress(whole)[2:]
    one, other = weights(whole), weights(resumed)
    assert one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


def test_steps_may_be_cut_into_other_forwards(pairs):
    """As after a forward that did not fit into memory: the same samples in each step, other bits."""
    whole, resumed = pairs["other forwards"]
    assert [line["loss"] for line in progress(resumed)] == pytest.approx([line["loss"] for line in progress(whole)[2:]], rel=1e-5)
    one, other = weights(whole), weights(resumed)
    assert max((one[key] - other[key]).abs().max().item() for key in one) < 1e-4


def test_a_checkpoint_holds_what_is_needed_and_none_is_made_of_the_last_step(pairs):
    checkpoints = pairs["zero 0"][0].work / CHECKPOINTS
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-2", "checkpoint-4"]
    assert not list(checkpoints.rglob("*.safetensors")) and not list(checkpoints.rglob("README.md"))


# Checkpoints after steps 20 and 40; a run is killed in the ten steps after them.
SMALL = "{max_steps: 50, epochs: 1000, batch_size: 8, microbatch: 4, max_tokens: 64, save_every: 20, workers: %d, zero_stage: %d}"
CONFIG = """
run: {name: toy, stages: %s}
model: {scratch: {hidden_size: 64, layers: 1, heads: 2, key_value_heads: 1, intermediate_size: 96, vocabulary: 300, context: 128}}
data: {practice: {base_lines: 300, demonstrations: 100, rated_prompts: 40, prompts: 20}}
base: %s
sft: %s
reward_model: %s
cluster: {cpus: 2, dashboard: false, object_store_gb: 0.1}
"""


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stages, workers, zero_stage", [(["base"], 2, 2), (["base", "sft", "reward"], 1, 0)])
def test_a_run_that_was_killed_goes_on_to_the_same_model_bit_for_bit(cluster, tmp_path, stages, workers, zero_stage):
    """SIGKILL to every process of the run after a checkpoint of each stage, a bit of the newest one flips, and `resume`."""
    section = SMALL % (workers, zero_stage)
    (tmp_path / "toy.yaml").write_text(CONFIG % (stages, section, section, section))
    whole, toy = never_killed(tmp_path, stages), tmp_path / "toy"
    arguments = ["run", "toy.yaml", f"run.folder={tmp_path}"]
    for stage in stages:
        killed_in(stage, tmp_path, arguments)
        newest = toy / stage / CHECKPOINTS / "checkpoint-40"
        damage(newest)
        arguments = ["resume", str(toy)]
    said = started(tmp_path, arguments).communicate(timeout=250)[0]
    assert f"{newest} is not used: global_step40/mp_rank_00_model_states.pt is not what was written (checksum)" in said, said
    assert f"{stages[-1]} goes on after step 20 of 50" in said, said
    for stage in stages:
        one, other = (folder / "models" / stage / "model.safetensors" for folder in (whole.path, toy))
        assert one.read_bytes() == other.read_bytes()
        assert (toy / stage / "progress.jsonl").read_text() == (whole.stage(stage) / "progress.jsonl").read_text()
        assert without_time(toy / "metrics" / f"{stage}.jsonl") == without_time(whole.metrics(stage))
        assert steps_in_tensorboard(toy / "tensorboard" / stage) == list(range(1, 51))
        told = ["progress.jsonl", "quality.json"] if stage == "reward" else ["progress.jsonl"]
        assert sorted(path.name for path in (toy / stage).iterdir()) == told
    assert {stage["state"] for stage in json.loads((toy / "run.json").read_text())["stages"].values()} == {"done"}


def never_killed(tmp_path: Path, stages: list[str]) -> RunFolder:
    """The same stages in one go, on the tests' cluster."""
    from importlib import import_module

    from scale_rlhf.data.practice.write import write_world
    from scale_rlhf.stages.runner import MODULES

    config = load_config(tmp_path / "toy.yaml", [f"run.folder={tmp_path}", "run.name=whole"])
    folder = RunFolder.create(config)
    write_world(folder.data, config.data.practice)
    for stage in stages:
        import_module(f"scale_rlhf.stages.{MODULES[stage]}").run(config, folder)
    return folder


def killed_in(stage: str, tmp_path: Path, arguments: list[str]) -> None:
    """Run until the stage's last checkpoint stands, and kill."""
    run = started(tmp_path, arguments)
    sealed = tmp_path / "toy" / stage / CHECKPOINTS / "checkpoint-40" / "manifest.json"
    ends = time.monotonic() + 250
    while not sealed.exists() and run.poll() is None and time.monotonic() < ends:
        everything = processes(run.pid)
        time.sleep(0.05)
    in_time = sealed.exists()
    for process in everything:  # the run's own process first: it would put the model in its place
        with suppress(psutil.NoSuchProcess):  # a child that ended with its parent
            process.kill()
    said = run.communicate(timeout=60)[0]
    assert psutil.wait_procs(everything, timeout=20)[1] == []
    assert in_time and not (tmp_path / "toy" / "models" / stage).exists(), said


def damage(checkpoint: Path) -> None:
    (states,) = checkpoint.glob("global_step*/mp_rank_00_model_states.pt")
    content = bytearray(states.read_bytes())
    content[len(content) // 2] ^= 1
    states.write_bytes(content)


def processes(root: int) -> list[psutil.Process]:
    """A process and all under it; [] where it has ended."""
    try:
        return [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def started(tmp_path: Path, arguments: list[str]) -> subprocess.Popen:
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "scale_rlhf.cli", *arguments], cwd=tmp_path, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def without_time(metrics: Path) -> list[dict]:
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def steps_in_tensorboard(folder: Path) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return [event.step for event in EventAccumulator(str(folder)).Reload().Scalars("loss")]
