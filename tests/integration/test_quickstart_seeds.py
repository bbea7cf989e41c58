"""The quickstart over three seeds shows what it promises. Long: about 20 minutes on two cores."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_quickstart_aligns_a_model(tmp_path, seed):
    command = [sys.executable, "-m", "scale_rlhf.cli", "run", "configs/quickstart.yaml", f"run.folder={tmp_path}",
               f"run.seed={seed}", f"data.practice.seed={seed}"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=1100)
    run = tmp_path / "quickstart"
    table = json.loads((run / "evaluation" / "table.json").read_text())
    models = table["models"]
    assert models["base"]["right_form"] < 0.10
    assert models["sft"]["right_form"] >= 0.80
    assert table["reward_ranks_right"] >= 0.85 and table["reward_pairs"] >= 100
    assert table["gap_closed"] >= 0.60
    assert all(models[name]["perplexity"] > 1 for name in ("base", "sft", "ppo"))
    stages = json.loads((run / "run.json").read_text())["stages"].values()
    assert max(stage["peak_memory_gb"] for stage in stages) < 12
