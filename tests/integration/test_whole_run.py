"""The whole path through the command line: base, SFT, reward model, PPO with five roles, evaluation - in miniature.

Training runs with the practice world's truth unimportable in every process: no stage but evaluation knows it.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scale_rlhf.telemetry import catalogue
from scale_rlhf.telemetry.charts import OVERLAP, QUALITY, ROLES, TRAINING
from scale_rlhf.telemetry.report import write_report
from tests.chaos.faults import timed

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("tiny_run.yaml")
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "scale_rlhf.data.practice.truth":
            raise ImportError("the truth is for evaluation alone")
sys.meta_path.insert(0, Blocked())
"""


def scale_rlhf(*arguments: str, path: str, status: int = 0, timeout: float = 420) -> str:
    """Run the command line with PYTHONPATH=path; its output, or a failure that shows it."""
    ended = subprocess.run(
        [sys.executable, "-m", "scale_rlhf.cli", *arguments], cwd=ROOT, text=True, capture_output=True, timeout=timeout,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert ended.returncode == status, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run with the truth unimportable: every training stage ends, and evaluation, which needs it, cannot."""
    folder = tmp_path_factory.mktemp("runs")
    blocked = folder / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(BLOCK)
    said = scale_rlhf("run", str(CONFIG), f"run.folder={folder}", path=f"{blocked}{os.pathsep}{ROOT}", status=2)
    assert "the truth is for evaluation alone" in said and "scale-rlhf resume" in said
    return folder / "tiny"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.timeout(600)
def test_training_ends_and_leaves_everything_in_its_folder(finished):
    state = json.loads((finished / "run.json").read_text())
    assert {name: stage["state"] for name, stage in state["stages"].items()} == dict.fromkeys(
        ("base", "sft", "reward", "ppo"), "done") | {"evaluate": "failed"}
    for stage in ("base", "sft", "reward", "ppo"):
        assert (finished / "models" / stage / "model.safetensors").is_file()
        assert (finished / "models" / stage / "tokenizer.json").is_file()
        assert lines(finished / "metrics" / f"{stage}.jsonl") and list((finished / "tensorboard" / stage).glob("events*"))
        keys = {key for line in lines(finished / "metrics" / f"{stage}.jsonl") for key in line} - {"step", "time"}
        assert [key for key in sorted(keys) if catalogue.find(key, stage) is None] == []  # all is documented
    metrics = lines(finished / "metrics" / "ppo.jsonl")
    assert [one["step"] for one in metrics] == [1, 2, 3]
    assert all(one["parity/gap_max"] < 1e-4 for one in metrics)
    assert metrics[0]["kl/reference_mean"] == pytest.approx(0, abs=1e-4)  # policy and reference start the same
    assert metrics[-1]["kl/coefficient"] != metrics[0]["kl/coefficient"]  # adaptive
    samples = lines(finished / "ppo" / "samples.jsonl")
    assert [one["index"] for one in samples] == list(range(3 * 6 * 3))


@pytest.mark.timeout(600)
def test_every_version_answered_held_out_prompts_while_it_trained(finished):
    """Without a judge, as the practice world's is not named: the truth stays unseen."""
    found = lines(finished / "metrics" / "held_out.jsonl")
    assert [one["step"] for one in found] == [one["evaluate/version"] for one in found] == [0, 1, 2, 3]
    keys = {key for one in found for key in one} - {"step", "time"}
    assert "evaluate/score" not in keys and [key for key in sorted(keys) if catalogue.find(key, "held_out") is None] == []
    answers = lines(finished / "ppo" / "held_out.jsonl")
    assert [one["version"] for one in answers] == [version for version in range(4) for _ in range(4)]
    assert len({one["prompt"] for one in answers}) == 4
    assert not {one["prompt"] for one in answers} & {one["prompt"] for one in lines(finished / "ppo" / "samples.jsonl")}
    assert "held out at version 0: reward" in (finished / "controller.log").read_text()


@pytest.mark.timeout(600)
def test_every_chart_of_the_report_has_its_numbers(finished):
    seen = set().union(*lines(finished / "metrics" / "ppo.jsonl"))
    wanted = {key for chart in (*TRAINING, *OVERLAP, *QUALITY) if chart.stage == "ppo" for key in chart.keys}
    assert wanted <= seen and set(ROLES) <= seen
    assert "What each actor did" in write_report(finished).read_text()


def test_plain_transformers_give_what_the_run_saw(finished):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    policy = AutoModelForCausalLM.from_pretrained(finished / "models" / "ppo-step-000002", dtype=torch.float32).eval()
    reward = AutoModelForSequenceClassification.from_pretrained(finished / "models" / "reward", dtype=torch.float32).eval()
    last = [one for one in lines(finished / "ppo" / "samples.jsonl") if one["step"] == 3]
    for one in last:
        ids = torch.tensor([one["prompt_ids"] + one["response_ids"]])
        with torch.no_grad():
            logprobs = torch.log_softmax(policy(ids).logits[0, len(one["prompt_ids"]) - 1 : -1], -1)
            score = reward(ids).logits[0, 0].item()
        total = logprobs.gather(-1, ids[0, len(one["prompt_ids"]) :, None]).sum().item()
        assert total == pytest.approx(one["logprob"], abs=1e-3) and score == pytest.approx(one["score"], abs=1e-4)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_same_seed_gives_the_same_run_twice(finished, tmp_path):
    from safetensors.torch import load_file

    models = {f"{role}.model": finished / "models" / stage for role, stage in (
        ("policy", "sft"), ("reference", "sft"), ("reward", "reward"), ("value", "reward"))}
    again = [f"{key}={path}" for key, path in models.items()] + [f"data.prompts={finished / 'data' / 'prompts.jsonl'}"]
    scale_rlhf("ppo", str(CONFIG), f"run.folder={tmp_path}", *again, path=str(ROOT))
    assert lines(tmp_path / "tiny-ppo" / "ppo" / "samples.jsonl") == lines(finished / "ppo" / "samples.jsonl")
    first, second = (load_file(folder / "models" / "ppo" / "model.safetensors") for folder in (finished, tmp_path / "tiny-ppo"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    timeless, again = ([{k: v for k, v in one.items() if not timed(k)} for one in lines(folder / "metrics" / "ppo.jsonl")]
                       for folder in (finished, tmp_path / "tiny-ppo"))
    assert timeless == again
    assert np.isfinite([value for one in timeless for value in one.values()]).all()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_three_lines_of_the_readme_train_from_python(finished, tmp_path):
    """They are taken from README.md as they stand; configs/quickstart.yaml is a tiny PPO stage on models that are there."""
    import yaml

    three = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    assert len(three.splitlines()) == 3 and "config.ppo.steps = 20" in three
    tiny = yaml.safe_load(CONFIG.read_text()) | {"run": {"name": "quickstart", "stages": ["ppo"]}}
    for role, stage in (("policy", "sft"), ("value", "reward"), ("reward", "reward")):
        tiny[role]["model"] = str(finished / "models" / stage)
    tiny["data"] = {"prompts": str(finished / "data" / "prompts.jsonl"), "max_prompt_tokens": 96}
    tiny["ppo"] = {"prompts_per_step": 2, "minibatches": 1, "epochs": 1}
    tiny["rollout"]["max_response_tokens"] = 8
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text(yaml.safe_dump(tiny))
    (tmp_path / "train.py").write_text(three)
    ended = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, text=True, capture_output=True, timeout=420,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    made = tmp_path / "runs" / "quickstart"
    assert [one["step"] for one in lines(made / "metrics" / "ppo.jsonl")] == list(range(1, 21))
    assert (made / "models" / "ppo" / "model.safetensors").is_file()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("staleness", [0, 1])
def test_with_adapters_in_every_stage(finished, tmp_path, staleness):
    """base is the run's own; sft, reward model, policy and value have adapters, and there is no process for the reference."""
    from safetensors.torch import load_file

    adapted = [f"{section}.lora={{rank: 4}}" for section in ("sft", "reward_model", "policy", "value")]
    said = scale_rlhf("run", str(CONFIG), f"run.folder={tmp_path}", f"model.path={finished / 'models' / 'base'}", *adapted,
                      "run.stages=[sft, reward, ppo]", f"overlap.max_staleness={staleness}", path=str(ROOT))
    run = tmp_path / "tiny"
    metrics = lines(run / "metrics" / "ppo.jsonl")
    assert [one["step"] for one in metrics] == [1, 2, 3], said
    gaps = [one["parity/gap_max"] for one in metrics if "parity/gap_max" in one]  # with overlap a line may have none yet
    assert len(gaps) >= 2 and max(gaps) < 1e-4
    assert metrics[0]["kl/reference_mean"] == pytest.approx(0, abs=1e-3) and metrics[-1]["kl/reference_mean"] != 0
    assert metrics[0]["reference_server/samples"] >= 18 and "idle/reference" not in metrics[0]
    whole, adapter = (load_file(run / "models" / "ppo" / name)
                      for name in ("model.safetensors", "adapter/adapter_model.safetensors"))
    size = sum(4 * tensor.numel() for tensor in adapter.values())
    published = {one["weights/published_bytes"] for one in metrics if "weights/published_bytes" in one}
    assert published == {size} and size < sum(4 * t.numel() for t in whole.values()) / 4
    for stage in ("sft", "reward", "ppo", "value"):
        assert (run / "models" / stage / "adapter" / "adapter_config.json").is_file()
    start = load_file(run / "models" / "sft" / "model.safetensors")
    assert {name for name in whole if not torch.equal(whole[name], start[name])} == {name for name in whole if "_proj." in name}


@pytest.mark.timeout(600)
def test_evaluation_goes_on_from_where_the_run_stopped_and_shows_what_each_stage_changed(finished):
    shown = scale_rlhf("resume", str(finished), path=str(ROOT))
    table = json.loads((finished / "evaluation" / "table.json").read_text())
    assert "true score" in shown and "ppo" in json.dumps(table).lower()
    assert json.loads((finished / "run.json").read_text())["stages"]["evaluate"]["state"] == "done"
    report = (finished / "report.html").read_text()
    assert "Over-optimisation" in report and "3 versions were judged" in shown
    assert json.loads((finished / "evaluation" / "overoptimisation.json").read_text())["parting"] is None
    assert "<svg" in report and "http://" not in report.replace("http://www.w3.org", "") and "https://" not in report
