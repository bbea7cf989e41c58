"""The evaluation: who is compared, how answers are judged, and the arithmetic of the table. The engine stands in test_stages."""

import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError, DataError, RunError
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.stages import evaluation_asking
from scale_rlhf.stages.evaluate import held_out_text, judge_training
from scale_rlhf.stages.evaluation_answers import Contestants, Question, contestants, questions
from scale_rlhf.stages.evaluation_asking import answer
from scale_rlhf.stages.evaluation_judging import PRACTICE_JUDGE, Judge, Verdict, find_judge, true_score_curve
from scale_rlhf.stages.evaluation_scoring import Scores, SummedLogprobs, kl_estimate, perplexity, text_samples
from scale_rlhf.stages.evaluation_table import answer_rows, gap_closed, make_table, print_answers, print_table
from scale_rlhf.telemetry.metrics import read_metrics
from tests.tiny import END, samples, tiny_policy, tiny_tokenizer


def by_length(prompt: str, response: str) -> dict:
    """A judge: a point a word, at most 5."""
    return {"score": min(5, len(response.split())), "helpful": 0.5, "right_form": not response.endswith("?")}


def best_attainable(prompt: str) -> float:
    return 5.0


def returns_nothing(prompt: str, response: str) -> dict:
    return {"helpful": 1.0}


def fails(prompt: str, response: str) -> dict:
    raise KeyError("no such prompt")


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def make_model(folder: RunFolder, *stages: str) -> None:
    for stage in stages:
        folder.model(stage).mkdir(parents=True)
        (folder.model(stage) / "config.json").write_text("{}")


# Who


def test_all_three_models_of_a_run(folder):
    make_model(folder, "base", "sft", "ppo")
    who = contestants(RunConfig(), folder)
    assert who.paths == {name: str(folder.model(name)) for name in ("base", "sft", "ppo")}
    assert (who.anchor, who.plain) == ("sft", {"base"})


def test_the_models_that_there_are(folder):
    with pytest.raises(ConfigError, match="model.path"):
        contestants(RunConfig(), folder)
    given = RunConfig(model={"path": "org/model"})
    assert contestants(given, folder) == Contestants({"base": "org/model"}, "base", frozenset())
    make_model(folder, "ppo")  # PPO from model.path itself: that is what it is compared with
    assert contestants(given, folder).paths == {"base": "org/model", "ppo": str(folder.model("ppo"))}
    assert contestants(given, folder).anchor == "base"
    given.policy.model = "org/tuned"
    assert contestants(given, folder).paths["sft"] == "org/tuned"


def test_every_way_to_align_stands_beside_the_others(folder):
    for name in ("sft", "dpo", "best_of_n", "ppo"):
        make_model(folder, name)
    who = contestants(RunConfig(policy={"model": "other/ppo"}), folder)
    assert list(who.paths) == ["sft", "best_of_n", "dpo", "ppo"] and who.anchor == "sft"


def test_dpo_is_compared_with_what_it_started_from(folder):
    make_model(folder, "dpo")
    config = RunConfig(dpo={"model": "other/sft"})
    assert contestants(config, folder) == Contestants({"sft": "other/sft", "dpo": str(folder.model("dpo"))}, "sft", frozenset())


def test_a_policy_of_another_run(folder):
    config = RunConfig(policy={"model": "other/ppo"}, reference={"model": "other/sft"})
    assert contestants(config, folder) == Contestants({"sft": "other/sft", "ppo": "other/ppo"}, "sft", frozenset())


# On what


@pytest.fixture
def tokenizer(tmp_path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer(tmp_path / "tokenizer"))


def evaluation_file(tmp_path, prompts):
    path = tmp_path / "evaluation.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt, "topic": "x"}) + "\n" for prompt in prompts))
    return {"evaluation": str(path), "prompts": str(path)}


def test_questions_are_limited_and_keep_their_row(tmp_path, folder, tokenizer):
    config = RunConfig(data=evaluation_file(tmp_path, ["a?", "b?", "c?"]), evaluation={"prompts": 2})
    asked = questions(config, folder, tokenizer)
    assert [question.text for question in asked] == ["a?", "b?"]
    assert asked[0].row["topic"] == "x"
    assert tokenizer.decode(asked[0].token_ids) == "<|user|>a?<|assistant|>"


def test_a_question_over_the_limit(tmp_path, folder, tokenizer):
    data = evaluation_file(tmp_path, ["a?", "b " * 40]) | {"max_prompt_tokens": 20}
    with pytest.raises(DataError, match="evaluation.jsonl:2"):
        questions(RunConfig(data=data), folder, tokenizer)
    assert len(questions(RunConfig(data=data | {"long_prompts": "filter"}), folder, tokenizer)) == 1


# Answers


class Engine:
    """Answers with the temperature (in tenths), the last token of the prompt, and the end; remembers what it was asked."""

    asked: list = []

    def __init__(self, config):
        self.model = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def load(self, path):
        self.model = path

    def answer(self, prompts, temperature, seed):
        Engine.asked.append((self.model, len(prompts), temperature, seed))
        return [[int(10 * temperature), prompt[-1], END] for prompt in prompts]


@pytest.fixture
def engine(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scale_rlhf.rollout.answers", SimpleNamespace(Answerer=Engine))
    monkeypatch.setattr(Engine, "asked", [])


def ask(config, count, tokenizer, plain=("base",)):
    asked = [Question({"messages": [{"role": "user", "content": "a?"}]}, [7, 8 + i], "a?") for i in range(count)]
    config.evaluation.diversity_prompts = 0
    who = Contestants({"base": "B", "sft": "S", "ppo": "P"}, "sft", frozenset(plain))
    found = answer(config, who, {"held_out": asked}, tokenizer)
    return found.of["held_out"], found.for_kl


def test_a_base_model_is_asked_in_plain_text_and_scored_in_the_template(engine, tokenizer):
    answers, for_kl = ask(RunConfig(evaluation={"temperature": 1.0}), 3, tokenizer)
    newline = tokenizer("a?\n", add_special_tokens=False)["input_ids"][-1]
    assert [sample.response_ids.tolist() for sample in answers["base"]] == [[10, newline, END]] * 3
    assert [sample.response_ids.tolist() for sample in answers["ppo"]] == [[10, 8 + i, END] for i in range(3)]
    assert answers["base"][1].prompt.token_ids.tolist() == [7, 9]
    assert [sample.response_ids.tolist() for sample in for_kl["base"]] == [[10, 8 + i, END] for i in range(3)]
    assert set(for_kl) == {"base", "ppo"} and for_kl["ppo"] == answers["ppo"]  # same temperature: the same samples
    assert all(sample.ended for sample in answers["ppo"])
    assert [(model, n) for model, n, *_ in Engine.asked] == [("B", 3), ("B", 3), ("S", 3), ("P", 3)]


def test_kl_samples_are_drawn_at_the_training_temperature(engine, tokenizer):
    answers, for_kl = ask(RunConfig(evaluation={"temperature": 0.5}, rollout={"temperature": 0.9}), 2, tokenizer)
    assert answers["ppo"][0].response_ids[0] == 5 and for_kl["ppo"][0].response_ids[0] == 9


def test_long_lists_of_prompts_are_asked_in_parts_with_seeds_of_their_own(engine, tokenizer, monkeypatch):
    monkeypatch.setattr(evaluation_asking, "PROMPTS_PER_CALL", 4)
    answers, _ = ask(RunConfig(evaluation={"temperature": 1.0}, run={"seed": 5}), 10, tokenizer, plain=())
    assert [asked for asked in Engine.asked if asked[0] == "S"] == [("S", 4, 1.0, 5), ("S", 4, 1.0, 9), ("S", 2, 1.0, 13)]
    assert [sample.response_ids[1] for sample in answers["sft"]] == [8 + i for i in range(10)]


# Judging


def test_a_judge_by_its_import_path():
    judge = find_judge(RunConfig(evaluation={"judge": f"{__name__}:by_length"}))
    assert judge("q", "one two") == Verdict(2.0, 0.5, None, None, 1.0)
    assert judge("q", "one two?").right_form == 0.0
    assert judge.best("q") == 5.0


def test_the_practice_world_has_its_own_and_other_data_none():
    assert find_judge(RunConfig(data={"practice": {}})).path == PRACTICE_JUDGE
    assert find_judge(RunConfig()) is None


def test_what_is_wrong_with_a_judge_is_said():
    with pytest.raises(ConfigError, match="cannot be imported"):
        Judge("no_such_module_here:judge")
    with pytest.raises(ConfigError, match="nobody"):
        Judge(f"{__name__}:nobody")
    with pytest.raises(RunError, match="finite number `score`"):
        Judge(f"{__name__}:returns_nothing")("q", "r")
    with pytest.raises(RunError, match="fails.*'why\\?'.*KeyError"):
        Judge(f"{__name__}:fails")("why?", "r")


def test_true_score_by_step():
    rows = [
        {"step": 2, "index": 9, "prompt": "q", "response": "one two three", "score": 0.5},
        {"step": 1, "index": 0, "prompt": "q", "response": "one", "score": -1.0},
        {"step": 1, "index": 1, "prompt": "q", "response": "one two three?", "score": 1.0},
        {"step": 2, "index": 9, "prompt": "q", "response": "one two", "score": 0.7},  # written again after a resume
    ]
    told = []
    curve = list(true_score_curve(rows, Judge(f"{__name__}:by_length"), told.append))
    assert [step for step, _ in curve] == [1, 2] and told == [2, 1]
    assert curve[0][1] == {"true/score": 2.0, "true/helpful": 0.5, "true/right_form": 0.5, "reward/score_mean": 0.0, "samples": 2}
    assert curve[1][1]["true/score"] == 2.0 and curve[1][1]["reward/score_mean"] == 0.7


def test_ppo_samples_are_judged_into_metrics(folder):
    judge = Judge(f"{__name__}:by_length")
    judge_training(folder, judge)  # a run without PPO
    assert not folder.metrics("evaluate").exists()
    (folder.stage("ppo") / "samples.jsonl").write_text(
        json.dumps({"step": 1, "index": 0, "prompt": "q", "response": "a b", "score": 1}) + "\n"
    )
    for _ in range(2):  # a second evaluation takes the place of the first
        judge_training(folder, judge)
    assert [(line["step"], line["true/score"]) for line in read_metrics(folder.metrics("evaluate"))] == [(1, 2.0)]
    assert len(folder.metrics("evaluate").read_text().splitlines()) == 1


# Numbers


def test_gap():
    assert gap_closed(2.0, 4.0, 4.5) == pytest.approx(0.8)
    assert gap_closed(2.0, 1.0, 4.0) == -0.5
    assert gap_closed(4.0, 4.0, 4.0) is None
    assert gap_closed(None, 4.0, 5.0) is None


def test_kl_and_perplexity():
    assert kl_estimate([-1.0, -2.0], [-3.0, -2.5]) == pytest.approx((2.0 + 0.5) / 2)
    assert perplexity([-3 * math.log(7), -math.log(7)], 4) == pytest.approx(7.0)


def test_summed_logprobs_are_those_of_the_model(tmp_path):
    """Packed and at any temperature, the sum over a response is what transformers gives for it alone."""
    from transformers import AutoModelForCausalLM

    path = tiny_policy(tmp_path / "model", tokenizer=False)
    plain = AutoModelForCausalLM.from_pretrained(path).eval()
    work = SummedLogprobs(str(path), "float32", "sdpa", False, 1.0)
    batch = samples(5, seed=3)
    for temperature in (1.0, 0.7):
        items = [with_temperature(sample, temperature) for sample in batch]
        with torch.no_grad():
            found = work.compute(work.load(), items)
        assert found == pytest.approx([alone(plain, sample, temperature) for sample in batch], abs=1e-4)


def with_temperature(sample, temperature):
    from dataclasses import replace

    return replace(sample, prompt=replace(sample.prompt, row={"temperature": temperature}))


@torch.no_grad()
def alone(model, sample, temperature):
    ids = torch.tensor(np.concatenate([sample.prompt.token_ids, sample.response_ids])[None].astype(np.int64))
    logprobs = torch.log_softmax(model(ids).logits[0] / temperature, -1)
    start = len(sample.prompt.token_ids)
    return sum(float(logprobs[place - 1, ids[0, place]]) for place in range(start, ids.shape[1]))


def test_perplexity_leaves_out_what_nothing_predicts():
    texts = text_samples([[5, 6, 7], [8], [9, 10]])
    assert [(sample.prompt.token_ids.tolist(), sample.response_ids.tolist()) for sample in texts] == [([5], [6, 7]), ([9], [10])]


def test_held_out_text_of_the_practice_world(folder, tokenizer):
    config = RunConfig(data={"practice": {}}, base={"max_tokens": 16})
    for name, lines in (("base", ["trained on"] * 3), ("base_heldout", ["What is the capital of France?"] * 4)):
        (folder.data / f"{name}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    rows = held_out_text(config, folder, tokenizer)
    assert tokenizer.decode([token for row in rows for token in row]) == "What is the capital of France?\n" * 4
    assert max(map(len, rows)) == 16
    assert held_out_text(RunConfig(), folder, tokenizer) == []


# The table


def table_of(verdicts=True):
    who = Contestants({"base": "B", "sft": "S", "ppo": "P"}, "sft", frozenset())
    answers = {name: samples(2, seed=place) for place, name in enumerate(who.paths)}
    said = {"base": [0, 0], "sft": [1, 3], "ppo": [4, 3]}
    judged = (
        {name: [Verdict(float(score), right_form=float(score > 0)) for score in numbers] for name, numbers in said.items()}
        if verdicts
        else None
    )
    scores = Scores(
        kl={"base": 50.0, "sft": 0.0, "ppo": 8.0},
        perplexity={"base": 3.0, "sft": 3.5, "ppo": 3.6},
        rewards={"base": [0.0, 0.0], "sft": [1.0, 1.0], "ppo": [2.0, 0.0]},
    )
    table = make_table(
        RunConfig(), who, answers, judged, scores, [5.0, 4.0] if verdicts else [None, None], "m:judge" if verdicts else None
    )
    return table, answers, judged, scores


def test_table():
    table, answers, *_ = table_of()
    assert [table["models"][name]["score"] for name in ("base", "sft", "ppo")] == [0.0, 2.0, 3.5]
    assert [table["models"][name]["win_rate"] for name in ("base", "sft", "ppo")] == [0.0, None, 0.75]
    assert table["models"]["ppo"]["reward"] == 1.0 and table["models"]["ppo"]["right_form"] == 1.0
    assert table["best_attainable"] == 4.5 and table["gap_closed"] == pytest.approx(0.6)
    assert table["models"]["sft"]["tokens"] == np.mean([len(sample.response_ids) for sample in answers["sft"]])
    json.dumps(table, allow_nan=False)


def test_without_a_judge_wins_are_by_reward():
    table, *_ = table_of(verdicts=False)
    assert table["win_by"] == "reward-model score" and table["models"]["ppo"]["win_rate"] == 0.5
    assert table["gap_closed"] is None and "score" not in table["models"]["ppo"]
    console = Console(record=True, width=100, file=io.StringIO())
    print_table(table, console)
    text = console.export_text()
    assert "true score" not in text and "reward-model score" in text and "KL to SFT" in text


def test_what_is_printed():
    table, answers, judged, scores = table_of()
    asked = [Question({"messages": []}, [1], f"[b]What {i}?") for i in range(2)]
    texts = {name: ["[/red] text", ""] for name in answers}
    rows = answer_rows(asked, texts, answers, judged, scores, [5.0, 4.0])
    console = Console(record=True, width=100, file=io.StringIO())
    print_table(table, console)
    print_answers(rows, 2, console)
    text = console.export_text()
    for shown in (
        "base",
        "SFT",
        "PPO",
        "3.50",
        "75%",
        "60% of the gap",
        "base 3.00, SFT 3.50, PPO 3.60",
        "[b]What 1?",
        "[/red] text",
        "(nothing)",
        "4 of 5",
    ):
        assert shown in text, shown
    assert rows[0]["answers"]["ppo"]["score"] == 4.0 and rows[0]["answers"]["ppo"]["reward"] == 2.0 and rows[1]["best"] == 4.0
