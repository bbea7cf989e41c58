"""Feedback of every kind: its normal form, the pairs that follow from it, what is learned from it, and what is refused."""
# ruff: noqa: E501 - a case and its message stay on one line

import json
import re
from pathlib import Path

import pytest

from scale_rlhf.config.schema import DataSource, RunConfig
from scale_rlhf.data import read
from scale_rlhf.data.forms import (
    judged_response,
    mean_ratings,
    pairs_from_ratings,
    preference_rows,
    ranked_responses,
    rated_responses,
)
from scale_rlhf.data.kinds import KINDS, kind_of, said
from scale_rlhf.data.sources import sources
from scale_rlhf.errors import DataError

HI = [{"role": "user", "content": "Hi"}]
THREE = {"prompt": "Hi", "responses": ["a", "b", "c"]}
ONE_OF_EACH = {
    "instruction": {"prompt": "Hi", "response": "Hello"},
    "conversation": {"messages": [*HI, {"role": "assistant", "content": "Hello"}]},
    "pair": {"prompt": "Hi", "chosen": "Hello", "rejected": "No"},
    "rating": {**THREE, "ratings": [1, 2, 3]},
    "aspects": {**THREE, "ratings": {"helpful": [1, 2, 3]}},
    "ranking": {**THREE, "ranks": [1, 2, 3]},
    "judgement": {"prompt": "Hi", "response": "Hello", "good": True},
    "prompt": {"prompt": "Hi"},
    "text": {"text": "Hi"},
}


def written(path, *rows) -> DataSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSource(path=str(path))


def compared(pairs) -> list[tuple]:
    return [(pair["chosen"], pair["rejected"], pair["margin"]) for pair in pairs]


def test_every_kind_is_told_from_the_others():
    assert ONE_OF_EACH.keys() == KINDS.keys()
    assert {name: kind_of(row, "f:1") for name, row in ONE_OF_EACH.items()} == {name: name for name in KINDS}


@pytest.mark.parametrize(("row", "kind"), [
    ({"messages": HI}, "prompt"),
    ({"prompt": "Hi", "completion": "Hello"}, "instruction"),
    ({"prompt": "Hi", "completion": "Hello", "label": False}, "judgement"),
    ({"prompt": "Hi", "response": "Hello", "label": "geography"}, "instruction"),  # another column of that name
    ({**THREE, "ranking": "best-to-worst"}, "ranking"),
    ({**THREE, "ranks": [1, 2, 3], "ratings": [3, 2, 1]}, "rating"),
    ({"prompt": "Hi", "respones": ["a"], "ratings": [1]}, "rating"),  # and not a prompt with other columns
])
def test_kinds_by_their_columns(row, kind):
    assert kind_of(row, "f:1") == kind


def test_ratings_of_one_or_of_several_raters_and_by_aspect():
    assert rated_responses({**THREE, "ratings": [1, [2, 4], 3.5]}, "f:1") == {
        "messages": HI, "responses": ["a", "b", "c"], "ratings": {"": [[1], [2, 4], [3.5]]}}
    rated = rated_responses({**THREE, "ratings": {"helpful": [[5, 3], 2, 0], "honest": [0, 2, 1], "harmless": None}}, "f:1")
    assert rated["ratings"] == {"helpful": [[5, 3], [2], [0]], "honest": [[0], [2], [1]]}
    assert mean_ratings(rated) == [2.0, 2.0, 0.5]


def test_pairs_of_ratings_by_aspect_go_by_the_mean_over_aspects():
    row = {**THREE, "ratings": {"helpful": [4, 1, 3], "honest": [2, 1, 4]}}
    assert compared(pairs_from_ratings(row, 0.5)) == [("c", "a", 0.5), ("c", "b", 2.5), ("a", "b", 2.0)]


@pytest.mark.parametrize("said_as", [{"ranking": "best-to-worst"}, {"ranks": [1, 2, 3]}, {"ranking": "best-to-worst", "ranks": None}])
def test_rankings(said_as):
    assert ranked_responses({**THREE, **said_as}, "f:1") == {"messages": HI, "responses": ["a", "b", "c"], "ranks": [1, 2, 3]}
    assert compared(preference_rows({**THREE, **said_as}, "f:1", 0.5)) == [("a", "b", None), ("a", "c", None), ("b", "c", None)]


def test_ties_in_a_ranking_are_no_pair():
    assert compared(preference_rows({**THREE, "ranks": [2, 1, 2]}, "f:1", 0.5)) == [("b", "a", None), ("b", "c", None)]


@pytest.mark.parametrize("row", [
    {"prompt": "Hi", "response": "Hello", "good": False},
    {"messages": HI, "response": "Hello", "good": "False"},
    {"prompt": "Hi", "completion": "Hello", "label": False},
    {"prompt": HI, "completion": [{"role": "assistant", "content": "Hello"}], "label": False},
])
def test_judgements(row):
    assert judged_response(row, "f:1") == {"messages": HI, "response": "Hello", "good": False}


def test_judgements_become_pairs_of_the_same_prompt(tmp_path):
    rows = [{"prompt": prompt, "response": response, "good": good} for prompt, response, good in [
        ("Hi", "a", True), ("Bye", "b", False), ("Hi", "c", False), ("Hi", "d", True)]]
    pairs = read.preferences(written(tmp_path / "a.jsonl", *rows))
    assert compared(pairs) == [("a", "c", None), ("d", "c", None)] and pairs[0]["messages"] == HI


def test_kinds_may_be_mixed_in_one_file(tmp_path):
    rows = [ONE_OF_EACH[kind] for kind in ("pair", "rating", "aspects", "ranking")]
    assert len(read.preferences(written(tmp_path / "a.jsonl", *rows))) == 1 + 3 + 3 + 3


def test_the_best_response_is_the_one_to_learn_and_a_bad_one_is_not(tmp_path):
    rows = [
        {**THREE, "ranks": [3, 1, 2]}, {**THREE, "ratings": {"helpful": [1, 2, 3], "honest": [3, 1, 5]}},
        {"prompt": "Hi", "response": "d", "good": True}, {"prompt": "Hi", "response": "e", "good": False},
        {"prompt": "Hi", "completion": "f"},
    ]
    source = written(tmp_path / "a.jsonl", *rows)
    assert [row["messages"][-1]["content"] for row in read.instructions(source)] == ["b", "c", "d", "f"]
    assert read.base_text(source)["text"] == ["Hi\nb", "Hi\nc", "Hi\nd", "Hi\nf"]


def test_what_is_derived_from_judgements_keeps_held_out_prompts_apart(tmp_path):
    rows = [{"prompt": f"Question {i}", "response": f"{good} {i}", "good": good} for i in range(40) for good in (True, False)]
    data = sources(RunConfig(data={"preferences": written(tmp_path / "a.jsonl", *rows), "hold_out": 0.2}), None)
    train, held = data.preference_split()
    prompts = {messages[0]["content"] for messages in held["messages"]}
    assert len(train) + len(held) == 40 and 2 < len(prompts) < 20
    assert {messages[0]["content"] for messages in data.training_instructions()["messages"]} == {row["prompt"] for row in rows} - prompts
    assert not any(prompt in text.split("\n") for prompt in prompts for text in data.training_text()["text"])


@pytest.mark.parametrize(("row", "expected"), [
    ({**THREE, "ratings": {"helpful": [1, 2]}}, "f:1: `ratings.helpful` must be a list with one entry a response (3); found list [1, 2]"),
    ({**THREE, "ratings": {}}, "f:1: `ratings` must be a list, or a mapping from aspects such as helpful to lists; found dict {}"),
    ({**THREE, "ratings": {"honest": [1, 2, []]}}, "f:1: a rating must be a number, or a list with one number a rater; found list []"),
    ({**THREE, "ranks": [1, 2]}, "f:1: `ranks` must be a list with one integer from 1, the best, for each response (3); found list [1, 2]"),
    ({**THREE, "ranks": [0, 1, 2]}, "f:1: `ranks` must be a list with one integer from 1"),
    ({**THREE, "ranks": [1, 2, 2.5]}, "f:1: `ranks` must be a list with one integer from 1"),
    ({**THREE, "ranking": "worst-to-best"}, 'f:1: `ranking` must be "best-to-worst", the responses best first; any other order is written as `ranks` instead'),
    ({"prompt": "Hi", "responses": ["a"], "ranks": [1]}, "f:1: a ranking needs at least two `responses`"),
    ({"prompt": "Hi", "respones": ["a", "b"], "ranks": [1, 2]}, "f:1: no column `responses`; expected `prompt`, `responses` and `ranks` (or `ranking: best-to-worst`); the row has `prompt`, `respones`, `ranks`; is it `respones`?"),
    ({"prompt": "Hi", "response": "a", "good": "yes"}, "f:1: `good` must be true or false; found str 'yes'"),
    ({"prompt": "Hi", "completion": "a", "label": 1}, "f:1: `label` must be true or false; found int 1"),
    ({"response": "a", "good": True}, "f:1: no column `prompt`"),
    ({"question": "Hi"}, "f:1: no kind of row that is known; the row has `question`. Expected one of: `prompt` and `response`; "),
])
def test_what_is_wrong_is_said(row, expected):
    with pytest.raises(DataError) as caught:
        said(row, "f:1")
    assert str(caught.value).startswith(expected)


def test_no_two_responses_that_differ(tmp_path):
    with pytest.raises(DataError, match="no two responses to one prompt differ, be it by 0.5 in their mean rating"):
        read.preferences(written(tmp_path / "a.jsonl", ONE_OF_EACH["judgement"]))


def test_where_every_response_is_bad_there_is_nothing_to_learn(tmp_path):
    source = written(tmp_path / "a.jsonl", {"prompt": "Hi", "response": "a", "good": False})
    for reader in (read.instructions, read.base_text):
        with pytest.raises(DataError, match="a.jsonl: every response there is judged bad"):
            reader(source)


def test_the_rows_of_the_documentation_are_of_the_kinds_that_it_says():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    table = text[text.index("| kind |") : text.index("Beside these")]
    rows = [json.loads(found) for found in re.findall(r"\| `(\{.*\})` \|", table)]
    assert [said(row, "docs").kind for row in rows] == [
        "instruction", "conversation", "pair", "pair", "rating", "rating", "aspects", "ranking", "ranking", "judgement"]


def test_aspects_in_parquet_where_rows_have_different_ones(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{**THREE, "ratings": {"helpful": [1, 2, 3]}}, {**THREE, "ratings": {"honest": [3, 2, 1]}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert len(read.preferences(DataSource(path=str(tmp_path / "a.parquet")))) == 3 + 3
