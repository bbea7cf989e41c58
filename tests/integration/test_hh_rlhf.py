"""configs/hh-rlhf.yaml in miniature on Anthropic's own pairs, through the command line: a reward model without and with margins,
DPO beside PPO, evaluation. The pairs have no ratings: margins are what a first reward model says of their distance.
"""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scale_rlhf.data.forms import preference_pair
from tests.integration.test_whole_run import ROOT, lines, scale_rlhf
from tests.shared_data import shared

CONFIG = str(ROOT / "configs" / "hh-rlhf.yaml")
ROWS = 500
SMALL = [
    "data.hold_out=0.2", "data.max_prompt_tokens=128", "base.epochs=1", "base.max_tokens=192", "sft.max_tokens=192",
    "reward_model.max_tokens=192", "rollout.max_response_tokens=32", "ppo.steps=4", "ppo.prompts_per_step=16",
    "dpo={workers: 2, learning_rate: 3.0e-4, epochs: 1, batch_size: 16, microbatch: 4, max_tokens: 192, beta: 0.3}",
    "evaluation.prompts=30",
]


def source(path: Path) -> str:
    return f"data.preferences={{path: {path}, limit: {ROWS}}}"


def write_margins(model_folder: Path, pairs: Path, target: Path) -> list[float]:
    """The first rows of the pairs, each with a column `margin`: by how much the model scores the chosen answer higher, or 0."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from scale_rlhf.data.chat import dialogue_ids

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForSequenceClassification.from_pretrained(model_folder, dtype=torch.float32).eval()
    with gzip.open(pairs, "rt") as file:
        rows = [json.loads(line) for _, line in zip(range(ROWS), file, strict=False)]
    for place, row in enumerate(rows):
        pair = preference_pair(row, f"{pairs}:{place + 1}")
        both = [[*pair["messages"], {"role": "assistant", "content": pair[side]}] for side in ("chosen", "rejected")]
        with torch.no_grad():
            chosen, rejected = (model(torch.tensor([dialogue_ids(tokenizer, one)[0][-192:]])).logits.item() for one in both)
        row["margin"] = max(chosen - rejected, 0.0)
    target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [row["margin"] for row in rows]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_reward_models_with_and_without_margins_and_dpo_beside_ppo(tmp_path):
    pairs, folder = shared("hh-rlhf/harmless-pairs.jsonl.gz"), f"run.folder={tmp_path}"
    stages = "run.stages=[base, sft, reward, dpo, ppo, evaluate]"
    scale_rlhf("run", CONFIG, folder, stages, source(pairs), *SMALL, path=str(ROOT), timeout=900)
    run, marked = tmp_path / "hh-rlhf", tmp_path / "with-margins.jsonl"
    margins = write_margins(run / "models" / "reward", pairs, marked)
    assert np.std(margins) > 0.01 and min(margins) == 0
    said = {}
    for margin in ("true", "false"):
        keys = [f"run.name=hh-margin-{margin}", f"reward_model.margin={margin}", f"reward_model.model={run / 'models' / 'sft'}"]
        scale_rlhf("reward", CONFIG, folder, source(marked), *SMALL, *keys, path=str(ROOT))
        (made,) = tmp_path.glob(f"hh-margin-{margin}*")
        said[margin] = json.loads((made / "reward" / "quality.json").read_text()), lines(made / "metrics" / "reward.jsonl")
    first = [metrics[0]["loss"] for _, metrics in said.values()]
    assert first[0] > first[1]  # a margin that is to be kept makes the same pairs cost more
    assert lines(run / "metrics" / "reward.jsonl")[0]["loss"] == pytest.approx(first[1], rel=1e-4)  # hh-rlhf has none

    table = json.loads((run / "evaluation" / "table.json").read_text())["models"]
    print({name: {key: one.get(key) for key in ("reward", "win_rate", "kl", "tokens")} for name, one in table.items()})
    print({margin: quality for margin, (quality, _) in said.items()})
    assert {"base", "sft", "dpo", "ppo"} <= set(table)
    assert [step["step"] for step in lines(run / "metrics" / "ppo.jsonl")] == [1, 2, 3, 4]
    assert all(step["parity/gap_max"] < 1e-4 for step in lines(run / "metrics" / "ppo.jsonl"))
    dpo = lines(run / "metrics" / "dpo.jsonl")
    assert dpo[0]["loss"] == pytest.approx(np.log(2), abs=1e-4) and np.isfinite([step["loss"] for step in dpo]).all()
