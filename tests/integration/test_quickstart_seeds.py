"""The quickstart over three seeds shows what it promises; one step ahead as much as synchronous. Long: 40 minutes."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(seed, staleness) → (what evaluation found, what each stage said) of a whole run, made once."""
    folder = tmp_path_factory.mktemp("quickstarts")

    @cache
    def run(seed: int, staleness: int) -> tuple[dict, dict]:
        name = f"seed-{seed}-staleness-{staleness}"
        command = [sys.executable, "-m", "scale_rlhf.cli", "run", "configs/quickstart.yaml", f"run.folder={folder}",
                   f"run.name={name}", f"run.seed={seed}", f"data.practice.seed={seed}", f"overlap.max_staleness={staleness}"]
        if staleness:  # from the same SFT and reward model
            run(seed, 0)
            made = folder / f"seed-{seed}-staleness-0" / "models"
            command += ["run.stages=[ppo, evaluate]", f"policy.model={made / 'sft'}", f"reward.model={made / 'reward'}"]
        subprocess.run(command, cwd=ROOT, check=True, timeout=1500)
        table = json.loads((folder / name / "evaluation" / "table.json").read_text())
        print(json.dumps(table["models"], indent=1), table["gap_closed"], table["reward_ranks_right"])
        return table, json.loads((folder / name / "run.json").read_text())["stages"]

    return run


@pytest.mark.long
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_quickstart_aligns_a_model(finished, seed, staleness):
    table, stages = finished(seed, staleness)
    models = table["models"]
    assert models.keys() == ({"sft", "ppo"} if staleness else {"base", "sft", "ppo"})
    assert staleness or models["base"]["right_form"] < 0.10
    assert models["sft"]["right_form"] >= 0.80
    assert table["reward_ranks_right"] >= 0.85 and table["reward_pairs"] >= 100
    assert table["gap_closed"] >= 0.60
    assert all(model["perplexity"] > 1 for model in models.values())
    assert max(stage["peak_memory_gb"] for stage in stages.values()) < 12


@pytest.mark.long
@pytest.mark.timeout(9600)
def test_one_step_ahead_reaches_the_true_score_of_the_synchronous_run(finished):
    """Within the seeds' spread: the means differ by no more than the seeds of one schedule do."""
    scores = {staleness: [finished(seed, staleness)[0]["models"]["ppo"]["score"] for seed in SEEDS] for staleness in (0, 1)}
    spread = max(max(seen) - min(seen) for seen in scores.values())
    assert abs(sum(scores[0]) - sum(scores[1])) / len(SEEDS) <= spread, scores
