"""Supervised stages with an adapter, by TRL over DeepSpeed: what moves, what stands on disk, and going on from a checkpoint."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from scale_rlhf.training.resuming import CHECKPOINTS, going_on
from tests.integration import test_preferences as preferences
from tests.integration import test_supervised_resume as supervised
from tests.integration.test_supervised import in_one_process, max_gap, steps
from tests.tiny import tiny_policy

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
LORA = {"rank": 4, "alpha": 16, "target_modules": ["q_proj", "down_proj"]}
SETTINGS = {"lora": LORA, "learning_rate": 1e-3, "zero_stage": 0}
LANGUAGE = {
    "plain": {}, "dropout": {"lora": LORA | {"dropout": 0.5}}, "small forwards": {"microbatch": 7},
    "zero 2": {"zero_stage": 2}, "zero 3": {"zero_stage": 3},
    "zero 3, checkpointing": {"zero_stage": 3, "gradient_checkpointing": True},
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def trained(cluster, start, tmp_path_factory):
    """{name: its job}, all of one process."""
    folder = tmp_path_factory.mktemp("adapters")
    jobs = {name: supervised.job(folder / name, start, SETTINGS | values) for name, values in LANGUAGE.items()}
    jobs |= {kind: supervised.job(folder / kind, start, SETTINGS, kind=kind) for kind in ("reward",)}
    jobs |= {loss: preferences.job(folder / loss, start, {"lora": LORA, "loss": loss}) for loss in ("dpo", "kto")}
    in_one_process(cluster, list(jobs.values()))
    return jobs


def moved(start, job) -> set[str]:
    before, after = (load_file(folder / "model.safetensors") for folder in (start, job.out))
    return {name for name in after if name not in before or not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("name", ["plain", "zero 3", "dpo", "kto", "reward"])
def test_targets_alone_move_and_a_new_head(start, trained, name):
    targets = {name for name in load_file(start / "model.safetensors") if "q_proj" in name or "down_proj" in name}
    assert moved(start, trained[name]) == targets | ({"score.weight"} if name == "reward" else set())
    assert steps(trained[name])[-1] != steps(trained[name])[0]


@pytest.mark.parametrize("name", ["small forwards", "zero 2", "zero 3", "zero 3, checkpointing"])
def test_what_must_not_matter_does_not(trained, name):
    assert steps(trained[name]) == pytest.approx(steps(trained["plain"]), rel=1e-5)
    assert max_gap(trained[name].out, trained["plain"].out) < 1e-5


def test_dropout_acts(trained):
    assert max_gap(trained["dropout"].out, trained["plain"].out) > 1e-5


def test_the_adapter_stands_by_itself_too(start, trained):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    job = trained["plain"]
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32), job.out / "adapter")
    whole, ids = AutoModelForCausalLM.from_pretrained(job.out, dtype=torch.float32), torch.arange(4, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(beside(ids).logits, whole(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_stage_goes_on_to_the_same_model_bit_for_bit(cluster, start, tmp_path, zero_stage):
    settings = SETTINGS | {"zero_stage": zero_stage, "lora": LORA | {"dropout": 0.2}}
    whole = going_on(supervised.job(tmp_path / "whole", start, settings), "sft", "sft")
    in_one_process(cluster, [whole])
    again = supervised.job(tmp_path / "resumed", start, settings)
    shutil.copytree(whole.work / CHECKPOINTS / "checkpoint-2", again.work / CHECKPOINTS / "checkpoint-2")
    resumed = going_on(again, "sft", "sft")
    in_one_process(cluster, [resumed])
    assert resumed.done == 2 and steps(resumed) == steps(whole)[2:] and max_gap(whole.out, resumed.out) == 0
