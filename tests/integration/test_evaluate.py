"""The evaluation with its real parts: one engine for three models, fleets for their likelihoods, a learned reward."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.orchestration.run_folder import RunFolder
from tests.tiny import tiny_classifier, tiny_policy

PROMPTS = ["What is the capital of France?", "Tell me how to apply for a job.", "What is the capital of Bolivia?"] * 4


def judge(prompt: str, response: str) -> dict:
    return {"score": float(len(response) % 5), "right_form": True}


def best_attainable(prompt: str) -> float:
    return 5.0


def first_and_longer(samples: list[dict]) -> list[float]:
    """Compares: the longer answer, and a little what it is shown first."""
    return [0.6 if len(one["response"]) == len(one["row"]["other"]) else
            0.9 if len(one["response"]) > len(one["row"]["other"]) else 0.2 for one in samples]


def is_long(samples: list[dict], characters: int) -> list[float]:
    """Verifies: the row says how long a right answer is at least."""
    return [float(len(one["response"]) >= characters + one["row"]["more"]) for one in samples]


@pytest.fixture(scope="module")
def evaluated(cluster, tmp_path_factory):
    from scale_rlhf.stages import evaluate

    folder = RunFolder(tmp_path_factory.mktemp("evaluation") / "run")
    for seed, name in enumerate(("base", "sft", "ppo")):
        tiny_policy(folder.model(name), seed=seed)
    tiny_classifier(folder.model("reward"))
    prompts = folder.path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    text = folder.path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": prompt}) + "\n" for prompt in PROMPTS))
    school = folder.path / "school.jsonl"
    school.write_text("".join(json.dumps({"prompt": prompt, "more": 1, "should": "refuse"}) + "\n" for prompt in PROMPTS[:3]))
    config = RunConfig(
        data={"evaluation": str(prompts), "prompts": str(prompts), "base_text": str(text), "hold_out": 0.25},
        base={"max_tokens": 32},
        rollout={"max_response_tokens": 12, "cpus": 1, "kv_cache_gb": 0.05},
        evaluation={
            "judge": f"{__name__}:judge", "samples_shown": 1, "diversity_prompts": 2,
            "judges": {"itself": {"model": str(folder.model("reward"))},
                       "duel": {"function": f"{__name__}:first_and_longer", "pairwise": True}},
            "prompt_sets": {"school": {"path": str(school), "verify": {"function": f"{__name__}:is_long",
                                                                       "arguments": {"characters": 9}}}},
        },
    )
    (folder.stage("ppo") / "samples.jsonl").write_text(
        json.dumps({"step": 1, "index": 0, "prompt": "q", "response": "abc", "score": 0.5}) + "\n"
    )
    drawn = {}

    def recorded(*arguments):
        found = answer(*arguments)
        drawn["answers"], drawn["for_kl"] = found.of["held_out"], found.for_kl
        return found

    with pytest.MonkeyPatch.context() as patch:
        answer = evaluate.answer
        patch.setattr(evaluate, "answer", recorded)
        summary = evaluate.run(config, folder)
    return SimpleNamespace(config=config, folder=folder, summary=summary, **drawn)


def test_table_answers_and_report_are_written(evaluated):
    folder, summary = evaluated.folder, evaluated.summary
    table = json.loads((folder.path / "evaluation" / "table.json").read_text())
    rows = [json.loads(line) for line in (folder.path / "evaluation" / "answers.jsonl").read_text().splitlines()]
    assert list(table["models"]) == ["base", "sft", "ppo"] and table["anchor"] == "sft"
    assert [row["prompt"] for row in rows] == PROMPTS
    assert table["models"]["sft"]["kl"] == 0 and table["models"]["ppo"]["kl"] > 0.5  # two random models are far apart
    for name, values in table["models"].items():
        mean = sum(row["answers"][name]["score"] for row in rows) / len(rows)
        assert values["score"] == pytest.approx(mean) and all(
            row["answers"][name]["score"] == len(row["answers"][name]["text"]) % 5 for row in rows
        )
        assert values["reward"] == pytest.approx(sum(row["answers"][name]["reward"] for row in rows) / len(rows))
    assert len({row["answers"]["ppo"]["text"] for row in rows}) > 3  # a seed for each sample
    assert summary["ppo_score"] == table["models"]["ppo"]["score"]
    report = (folder.path / "report.html").read_text()
    assert "True score of the same answers" in report and "Answers side by side" in report


def test_judges_and_prompt_sets_are_those_of_plain_loops(evaluated):
    folder = evaluated.folder
    table = json.loads((folder.path / "evaluation" / "table.json").read_text())
    rows, school = ([json.loads(line) for line in (folder.path / "evaluation" / name).read_text().splitlines()]
                    for name in ("answers.jsonl", "answers-school.jsonl"))
    held_out = table["prompt_sets"]["held_out"]["judges"]
    for row in rows:  # the judge is the reward model itself, and is warned of
        assert row["answers"]["ppo"]["judges"]["itself"] == pytest.approx(row["answers"]["ppo"]["reward"], abs=1e-5)
    assert held_out["itself"]["models"]["ppo"]["score"] == pytest.approx(table["models"]["ppo"]["reward"])
    assert [line for line in table["warnings"] if line.startswith("evaluation.judges.itself is the model that the run trained")]
    lengths = [[len(row["answers"][name]["text"]) for name in ("ppo", "sft")] for row in rows]
    preferred = [0.5 if a == b else 0.85 if a > b else 0.15 for a, b in lengths]
    assert held_out["duel"]["models"]["ppo"]["win_rate"] == pytest.approx(sum(preferred) / len(rows))
    assert 0 < held_out["duel"]["position_bias"] < 0.11 and "sft" not in held_out["duel"]["models"]
    found = table["prompt_sets"]["school"]
    assert [row["prompt"] for row in school] == PROMPTS[:3] and found["judges"] == {}  # it is verified, and names no judge
    for name in ("base", "sft", "ppo"):
        right = [len(row["answers"][name]["text"]) >= 10 for row in school]
        assert found["models"][name]["right"] == pytest.approx(sum(right) / 3)
        assert found["models"][name]["counts"]["refusals_right"] == 3
        assert 0 < table["models"][name]["distinct_2"] <= 1 and table["models"][name]["counts"]["self_bleu"] == 2
        low, high = table["models"][name]["intervals"]["score"]
        assert low <= table["models"][name]["score"] <= high
    report = (folder.path / "report.html").read_text()
    assert "Judges and prompt sets" in report and "Right answers: school" in report and "Answers side by side: school" in report


@torch.no_grad()
def test_perplexity_is_that_of_plain_transformers(evaluated):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from scale_rlhf.stages.evaluate import held_out_text

    config, folder, summary = evaluated.config, evaluated.folder, evaluated.summary
    rows = held_out_text(config, folder, AutoTokenizer.from_pretrained(folder.model("sft")))
    assert rows
    for name in ("base", "sft", "ppo"):
        model, total, tokens = AutoModelForCausalLM.from_pretrained(folder.model(name)).eval(), 0.0, 0
        for row in rows:
            ids = torch.tensor([row])
            total += float(model(ids, labels=ids).loss) * (len(row) - 1)
            tokens += len(row) - 1
        assert summary[f"{name}_perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-4)


@torch.no_grad()
def test_rewards_are_those_of_plain_transformers(evaluated):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(evaluated.folder.model("reward")).eval()
    rows = [json.loads(line) for line in (evaluated.folder.path / "evaluation" / "answers.jsonl").read_text().splitlines()]
    for row, sample in zip(rows, evaluated.answers["ppo"], strict=True):
        ids = whole(sample)
        score = float(model(ids, attention_mask=torch.ones_like(ids)).logits[0, 0])
        assert row["answers"]["ppo"]["reward"] == pytest.approx(score, abs=1e-4)


@torch.no_grad()
def test_kl_is_that_of_plain_transformers(evaluated):
    """On samples at the temperature of training, 1, while answers were drawn at 0.7."""
    from transformers import AutoModelForCausalLM

    models = [AutoModelForCausalLM.from_pretrained(evaluated.folder.model(name)).eval() for name in ("ppo", "sft")]
    samples = evaluated.for_kl["ppo"]
    differences = [response_logprob(models[0], sample) - response_logprob(models[1], sample) for sample in samples]
    assert evaluated.summary["ppo_kl"] == pytest.approx(sum(differences) / len(samples), abs=1e-3)
    assert [s.response_ids.tolist() for s in samples] != [s.response_ids.tolist() for s in evaluated.answers["ppo"]]


def response_logprob(model, sample) -> float:
    ids = whole(sample)
    logprobs = torch.log_softmax(model(ids).logits[0], -1)
    start = len(sample.prompt.token_ids)
    return sum(float(logprobs[place - 1, ids[0, place]]) for place in range(start, ids.shape[1]))


def whole(sample) -> torch.Tensor:
    return torch.tensor([[*sample.prompt.token_ids.tolist(), *sample.response_ids.tolist()]])
