"""configs/gsm8k-grpo.yaml in miniature, through the command line: the shipped file with smaller numbers, on a few problems."""

import json

import numpy as np
import pytest
import yaml

from scale_rlhf.reward.verifiable.form import matches
from scale_rlhf.reward.verifiable.mathematics import final_answer
from scale_rlhf.telemetry import catalogue
from tests.integration.test_whole_run import ROOT, lines, scale_rlhf
from tests.tiny import tiny_classifier, tiny_policy

PROBLEMS = [
    {"question": f"Ann has {n} apples and buys 3 more. How many has she?", "answer": f"{n}+3 = {n + 3}.\n#### {n + 3}"}
    for n in range(40)
]
CONFIG = ROOT / "configs" / "gsm8k-grpo.yaml"
PATTERN = yaml.safe_load(CONFIG.read_text())["reward"]["mix"]["form"]["arguments"]["pattern"]
SMALL = [
    "run.stages=[ppo]", "ppo.steps=2", "ppo.prompts_per_step=2", "ppo.responses_per_prompt=3", "rollout.max_response_tokens=16",
    "reward.overlong.buffer_tokens=8", "reward.mix.liked={model: MODEL, weight: 0.01, normalise: 8, clip: [-1, 1], cpus: 0.2}",
    "rollout.kv_cache_gb=0.05", "data.max_prompt_tokens=128",
]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_grpo_with_verifiable_rewards(tmp_path):
    data, policy = tmp_path / "gsm8k.jsonl", tiny_policy(tmp_path / "policy")
    liked = tiny_classifier(tmp_path / "liked")
    data.write_text("\n".join(map(json.dumps, PROBLEMS)))
    said = scale_rlhf("run", str(CONFIG), f"data.instructions.path={data}", f"model.path={policy}",
                      f"run.folder={tmp_path / 'runs'}", *(one.replace("MODEL", str(liked)) for one in SMALL), path=str(ROOT))
    run = tmp_path / "runs" / "gsm8k-grpo"
    assert "reward liked on 8 reference answers" in said
    kept = json.loads((run / "ppo" / "reward_moments.json").read_text())
    assert set(kept) == {"liked"} and kept["liked"]["deviation"] > 0
    metrics, samples = lines(run / "metrics" / "ppo.jsonl"), lines(run / "ppo" / "samples.jsonl")
    assert len(metrics) == 2 and len(samples) == 2 * 2 * 3
    for step in metrics:
        assert {key for key in step if catalogue.find(key, "ppo") is None} <= {"step", "time"}
        of_step = [one for one in samples if one["step"] == step["step"]]
        right, form = _right(of_step), matches(of_step, pattern=PATTERN)
        for one, is_right, in_form in zip(of_step, right, form, strict=True):
            checked = is_right + 0.1 * in_form - 0.1 * min(max(one["tokens"] - 8, 0) / 8, 1.0)
            assert abs(one["score"] - checked) <= 0.01 + 1e-9  # what the learned reward adds: clipped, then a hundredth of it
        assert step["reward_server/overlong_share"] == pytest.approx(sum(one["tokens"] > 8 for one in of_step) / 6)
        assert step["reward_server/right/raw_mean"] == pytest.approx(np.mean(right))
        assert step["reward_server/form/raw_mean"] == pytest.approx(np.mean(form))
    assert len({tuple(one["prompt_ids"]) for one in samples[:3]}) == 1  # a group answers one question


def _right(samples: list[dict]) -> list[float]:
    answers = {row["question"]: row["answer"] for row in PROBLEMS}
    return final_answer([{"response": one["response"], "row": {"answer": answers[one["prompt"]]}} for one in samples])
