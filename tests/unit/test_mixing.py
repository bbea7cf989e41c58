"""Mixing data sets by weight, and reading good and bad answers."""

import json

import pytest

from scale_rlhf.config.schema import DataSource, RunConfig
from scale_rlhf.data.judgements import judgements
from scale_rlhf.data.mixing import mixed, shares
from scale_rlhf.data.sources import sources
from scale_rlhf.errors import DataError


@pytest.mark.parametrize("sizes, weights, expected", [
    ([10, 10], [1, 1], [10, 10]), ([30, 10], [1, 1], [20, 20]), ([30, 10], [3, 1], [30, 10]),
    ([10, 10, 10], [1, 1, 2], [8, 7, 15]),
    ([5, 2], [1e-9, 1], [0, 7]),
])
def test_shares(sizes, weights, expected):
    assert shares(sizes, weights) == expected and sum(expected) == sum(sizes)


def rows(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return str(path)


def instruction_files(folder):
    return [rows(folder / f"{name}.jsonl", [{"prompt": f"{name} {i}", "response": "Yes."} for i in range(count)])
            for name, count in (("a", 30), ("b", 10))]


def mixture(folder, weights, seed=0, hold_out=0.0):
    files = instruction_files(folder)
    parts = [{"path": path, "weight": weight} for path, weight in zip(files, weights, strict=True)]
    config = RunConfig.model_validate({"run": {"seed": seed}, "data": {"mixture": parts, "hold_out": hold_out}})
    taken = [row["messages"][0]["content"] for row in sources(config, None).training_instructions()]
    return [[text for text in taken if text.startswith(name)] for name in ("a", "b")]


def test_a_mixture_has_its_weights_and_follows_the_seed(tmp_path):
    first, second = mixture(tmp_path, [1, 1])
    assert len(first) == len(second) == 20
    assert len(set(first)) == 20 and sorted(second) == sorted([f"b {i}" for i in range(10)] * 2)
    assert mixture(tmp_path, [1, 1]) == [first, second]
    assert mixture(tmp_path, [1, 1], seed=1)[0] != first
    assert [len(part) for part in mixture(tmp_path, [3, 1])] == [30, 10]


def test_a_mixture_gives_prompts_and_reference_answers_where_nothing_else_does(tmp_path):
    parts = [{"path": path} for path in instruction_files(tmp_path)]
    found = sources(RunConfig.model_validate({"data": {"mixture": parts, "hold_out": 0.25}}), None)
    prompts = (found.training_prompts(), found.evaluation_prompts())
    asked, held = ([row["messages"][-1]["content"] for row in some] for some in prompts)
    assert held and not set(asked) & set(held)
    assert sorted([*asked, *held]) == sorted([*(f"a {i}" for i in range(30)), *(f"b {i}" for i in range(10))])
    assert {row["messages"][0]["content"] for row in found.training_instructions()} <= set(asked)
    assert [row["messages"][0]["content"] for row in found.reference_answers()] == asked


def test_a_mixture_is_whole_where_prompts_are_others(tmp_path):
    parts, own = [{"path": path} for path in instruction_files(tmp_path)], rows(tmp_path / "own.jsonl", [{"prompt": "c"}])
    found = sources(RunConfig.model_validate({"data": {"mixture": parts, "prompts": own, "hold_out": 0.25}}), None)
    assert len(found.training_instructions()) == 40 and len(found.training_prompts()) + len(found.evaluation_prompts()) == 1


def test_mixing_repeats_each_row_as_often_as_any_other():
    from datasets import Dataset

    parts = [Dataset.from_dict({"n": list(range(7))}), Dataset.from_dict({"n": [10, 11, 12]})]
    taken = [n for n in mixed(parts, [1, 3], 0)["n"] if n >= 10]
    assert len(taken) == 7 and {taken.count(n) for n in (10, 11, 12)} == {2, 3}


def judged(path, values):
    return judgements(DataSource(path=rows(path / "rows.jsonl", values)), 0.5)


def test_good_and_bad_answers_are_read(tmp_path):
    found = judged(tmp_path, [{"prompt": "p", "response": "yes", "good": True},
                              {"messages": [{"role": "user", "content": "q"}], "response": "no", "good": False}])
    read = [(row["messages"][-1]["content"], row["response"], row["good"]) for row in found]
    assert read == [("p", "yes", True), ("q", "no", False)]


def test_completions_and_rankings_are_judgements_too(tmp_path):
    found = judged(tmp_path, [{"prompt": "p", "completion": "yes", "label": True},
                              {"prompt": "q", "responses": ["first", "last"], "ranks": [1, 2]}])
    assert [(row["response"], row["good"]) for row in found] == [("yes", True), ("first", True), ("last", False)]


def test_both_sides_of_pairs_are_judgements_each_once(tmp_path):
    found = judged(tmp_path, [{"prompt": "p", "responses": ["best", "middle", "worst"], "ratings": [5, 3, 0]}])
    assert sorted((row["response"], row["good"]) for row in found) == [
        ("best", True), ("middle", False), ("middle", True), ("worst", False)]


@pytest.mark.parametrize("row, message", [
    ({"prompt": "p", "response": "r", "good": "yes"}, r"rows.jsonl:2: `good` must be true or false; found"),
    ({"prompt": "p", "good": True}, "rows.jsonl:2: no column `response`; expected `prompt`, `response` and `good`"),
    ({"prompt": "p", "response": "x", "good": True}, "has no bad answer; dpo.loss: kto learns from good and bad ones"),
])
def test_what_is_wrong_is_told_with_its_line(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        judged(tmp_path, [{"prompt": "p", "response": "r", "good": True}, row])
