"""Rejection sampling through a real engine and a reward function, a stop in the middle, and DPO beside it in one table."""

import asyncio
import json

import pytest

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.stages import best_of_n
from tests.tiny import tiny_policy

PROMPTS = [f"What is the capital of {place}?" for place in ("France", "Bolivia", "Peru", "Chad", "Fiji", "Cuba", "Laos", "Mali")]


def vowels(samples: list[dict]) -> list[float]:
    """Share of vowels in the response: what the run's reward is, but for a thousandth."""
    return [sum(letter in "aeiou" for letter in sample["response"]) / max(1, len(sample["response"])) for sample in samples]


def characters(samples: list[dict]) -> list[float]:
    return [float(len(sample["response"])) for sample in samples]


@pytest.fixture(scope="module")
def run(cluster, tmp_path_factory):
    """Stopped after its first prompts, then gone on with: the answers of both attempts, what the stage said, its folder."""
    path = tmp_path_factory.mktemp("best_of_n")
    prompts = path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    written = path / "instructions.jsonl"
    written.write_text("".join(json.dumps({"prompt": f"{n}?", "response": "ha" * n}) + "\n" for n in range(1, 8)))
    config = RunConfig.model_validate({
        "model": {"path": str(tiny_policy(path / "start"))},
        "data": {"instructions": str(written), "prompts": str(prompts), "evaluation": str(prompts), "hold_out": 0.1,
                 "max_prompt_tokens": 64},
        "rollout": {"max_response_tokens": 150, "cpus": 0.5, "kv_cache_gb": 0.1, "temperature": 2.0},
        "reward": {"mix": {
            "sung": {"function": f"{__name__}:vowels", "cpus": 0.25},
            "long": {"function": f"{__name__}:characters", "cpus": 0.25, "normalise": 4, "clip": (-5, 5), "weight": 0.001},
        }},
        "best_of_n": {"responses_per_prompt": 6, "max_steps": 8, "epochs": 20, "batch_size": 4, "learning_rate": 3e-3,
                      "zero_stage": 0, "neftune_alpha": 5.0, "max_tokens": 200},
    })
    folder = RunFolder(path / "run")
    whole, kept = best_of_n.Choosing._group, asyncio.Event()
    with pytest.MonkeyPatch.context() as patch:
        async def one_group_alone(self, group, places):
            if group:
                await kept.wait()
                raise KeyboardInterrupt
            await whole(self, group, places)
            kept.set()

        patch.setattr(best_of_n, "GROUP", 12)
        patch.setattr(best_of_n.Choosing, "_group", one_group_alone)
        with pytest.raises(KeyboardInterrupt):
            best_of_n.run(config, folder)
    first = (folder.path / "best_of_n" / "answers.jsonl").read_text().splitlines()
    return first, best_of_n.run(config, folder), folder, config


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_stopped_run_asks_the_prompts_that_are_left(run):
    first, said, folder, _ = run
    lines = (folder.path / "best_of_n" / "answers.jsonl").read_text().splitlines()
    assert len(first) == 2 and lines[:2] == first
    assert sorted(json.loads(line)["place"] for line in lines) == list(range(len(PROMPTS)))
    assert all(len(json.loads(line)["scores"]) == 6 for line in lines)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_best_are_learned(run):
    _, said, folder, _ = run
    rows = [json.loads(line) for line in (folder.path / "best_of_n" / "instructions.jsonl").read_text().splitlines()]
    assert len(rows) == len(PROMPTS) - said["left_out"] > 3
    for row in rows:
        assert row["messages"][0]["content"] in PROMPTS and row["messages"][-1]["role"] == "assistant"
        assert row["score"] == pytest.approx(vowels([{"response": row["messages"][-1]["content"]}])[0], abs=0.02)
    assert said["kept_score"] == pytest.approx(sum(row["score"] for row in rows) / len(rows))
    assert json.loads((folder.path / "ppo" / "reward_moments.json").read_text())["long"]["answers"] == 4
    losses = [json.loads(line)["loss"] for line in folder.metrics("best_of_n").read_text().splitlines()]
    assert len(losses) == 8 and losses[-1] < losses[0]
    assert (folder.model("best_of_n") / "model.safetensors").is_file()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_it_stands_in_the_table_beside_the_others(run):
    from scale_rlhf.stages import evaluate

    _, _, folder, config = run
    tiny_policy(folder.model("dpo"), seed=5)
    evaluate.run(config, folder)
    table = json.loads((folder.path / "evaluation" / "table.json").read_text())
    assert list(table["models"]) == ["base", "best_of_n", "dpo"] and table["anchor"] == "base"
    assert all(table["models"][name]["reward"] is not None for name in table["models"])
    assert table["models"]["dpo"]["kl"] > 0 and table["models"]["best_of_n"]["win_rate"] is not None
