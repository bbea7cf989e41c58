"""Data files: every form comes out in one normal form; every fault is a DataError with file and line."""
# ruff: noqa: E501 - a case and its message stay on one line

import csv
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scale_rlhf.config.schema import DataSource, RunConfig
from scale_rlhf.data import read
from scale_rlhf.data.forms import pairs_from_ratings, parse_dialogue
from scale_rlhf.data.limit import within_limit
from scale_rlhf.data.rows import read_rows
from scale_rlhf.data.sources import held_out, sources
from scale_rlhf.errors import ConfigError, DataError

HH = Path(__file__).parents[3] / "shared" / "data" / "hh-rlhf" / "harmless-pairs.jsonl.gz"
USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
PAIR = {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go away"}


def lines(path: Path, *rows) -> DataSource:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return DataSource(path=str(path))


def refused(reader, source, *arguments) -> str:
    with pytest.raises(DataError) as caught:
        list(reader(source, *arguments))
    return str(caught.value)


@pytest.mark.parametrize("row", [
    {"prompt": "Hi", "response": "Hello"},
    {"messages": [USER, ASSISTANT]},
    {"prompt": [USER], "response": "Hello"},
    PAIR,
    {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
    {"prompt": "Hi", "responses": ["Go away", "Hello"], "ratings": [[0, 1], [4, 5]]},
    {"chosen": [USER, ASSISTANT], "rejected": [USER, {"role": "assistant", "content": "Go away"}]},
])
def test_instructions_of_every_form(tmp_path, row):
    assert read.instructions(lines(tmp_path / "a.jsonl", row))[:] == {"messages": [[USER, ASSISTANT]]}


@pytest.mark.parametrize("row", [
    PAIR,
    {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
    {"prompt": "\n\nHuman: Hi\n\nAssistant:", **PAIR},
    {"messages": [USER], "chosen": "Hello", "rejected": "Go away"},
    {"chosen": [USER, ASSISTANT], "rejected": [USER, {"role": "assistant", "content": "Go away"}]},
])
def test_pairs_of_every_form(tmp_path, row):
    rows = read.preferences(lines(tmp_path / "a.jsonl", row))
    assert rows[0] == {"messages": [USER], "chosen": "Hello", "rejected": "Go away", "margin": None}


def test_a_pair_may_say_how_far_apart_its_answers_are(tmp_path):
    rows = [PAIR | {"margin": 2}, {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away", "margin": None}]
    assert read.preferences(lines(tmp_path / "a.jsonl", *rows))["margin"] == [2.0, None]
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected,margin\nHi,Hello,Go away,0.5\nHi,Hello,Go away,\n")
    assert read.preferences(DataSource(path=str(tmp_path / "a.csv")))["margin"] == [0.5, None]


def test_ratings_become_every_pair_with_the_gap_of_their_means_as_margin():
    row = {"prompt": "Hi", "responses": ["a", "b", "c"], "ratings": [[1, 3], [5, 5], [2, 2.5]]}
    found = {(pair["chosen"], pair["rejected"]): pair["margin"] for pair in pairs_from_ratings(row, 0.5)}
    assert found == {("b", "a"): 3.0, ("b", "c"): 2.75}
    assert len(pairs_from_ratings(row, 0.25)) == 3
    assert pairs_from_ratings({**row, "ratings": [2, 2, 2]}, 0.0) == []


def test_no_pair_at_all_is_an_error(tmp_path):
    source = lines(tmp_path / "a.jsonl", {"prompt": "Hi", "responses": ["a", "b"], "ratings": [2, 2]})
    assert "lower reward_model.minimum_gap" in refused(read.preferences, source)


def test_dialogues_of_several_turns_share_all_but_the_last(tmp_path):
    start = "\n\nHuman: One\n\nAssistant: Two\n\nHuman: Three\n\nAssistant:"
    row = {"chosen": f"{start} Yes: Human: is no turn here", "rejected": f"{start} No"}
    pair = read.preferences(lines(tmp_path / "a.jsonl", row))[0]
    assert [turn["content"] for turn in pair["messages"]] == ["One", "Two", "Three"]
    assert (pair["chosen"], pair["rejected"]) == ("Yes: Human: is no turn here", "No")


def test_dialogues_that_part_early_keep_the_rest_as_the_answer(tmp_path):
    row = {"chosen": "\n\nHuman: One\n\nAssistant: A\n\nHuman: Two\n\nAssistant: B", "rejected": "\n\nHuman: One\n\nAssistant: C"}
    pair = read.preferences(lines(tmp_path / "a.jsonl", row))[0]
    assert (len(pair["messages"]), pair["chosen"], pair["rejected"]) == (1, "A\n\nTwo\n\nB", "C")


def test_prompts_keep_other_columns_and_their_place(tmp_path):
    rows = read.prompts(lines(tmp_path / "a.jsonl", {"prompt": "Hi", "answer": 4}, "", {"messages": [USER, ASSISTANT]}, PAIR))
    assert [row["messages"] for row in rows] == [[USER]] * 3
    assert rows[0]["answer"] == 4 and rows[1]["_at"] == f"{tmp_path}/a.jsonl:3"


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.parquet"])
def test_every_kind_of_file_reads_the_same(tmp_path, name):
    rows = [{"prompt": f"Grüß {i}\u2028,\"", "response": "a\nb"} for i in range(3)]
    path = tmp_path / name
    if name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".csv"):
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "response"])
            writer.writeheader()
            writer.writerows(rows)
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows, indent=2))
    else:
        (gzip.open if name.endswith(".gz") else open)(path, "wb").write("".join(json.dumps(row) + "\n" for row in rows).encode())
    found = read.instructions(DataSource(path=str(path)))
    assert [[turn["content"] for turn in row["messages"]] for row in found] == [[row["prompt"], row["response"]] for row in rows]


def test_a_folder_of_a_data_set_is_read_through_datasets(tmp_path):
    lines(tmp_path / "train.jsonl", {"prompt": "Hi", "response": "Hello"})
    assert len(read.instructions(DataSource(path=str(tmp_path)))) == 1


def test_lists_in_csv_are_json(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,responses,ratings\nHi,"[""a"", ""b""]","[[1, 2], [4, 4]]"\n')
    assert read.preferences(DataSource(path=str(path)))[0]["margin"] == 2.5


def test_columns_are_renamed_and_rows_limited(tmp_path):
    source = lines(tmp_path / "a.jsonl", *[{"question": str(i), "answer": "x"} for i in range(5)])
    source.columns, source.limit = {"prompt": "question", "response": "answer"}, 2
    assert [row[0]["content"] for row in read.instructions(source)["messages"]] == ["0", "1"]
    source.columns = {"prompt": "qestion"}
    assert f"{tmp_path}/a.jsonl:1: no column `qestion` (data.instructions.columns.prompt)" in refused(read.instructions, source)
    assert "did you mean `question`?" in refused(read.instructions, source)


@pytest.mark.parametrize(("reader", "bad", "expected"), [
    (read.prompts, '{"prompt": "a"', "a.jsonl:2: malformed JSON: Expecting ',' delimiter at column 15; expected one JSON object a line"),
    (read.prompts, "[1]", "a.jsonl:2: expected a JSON object with named columns, found list [1]"),
    (read.prompts, {"promt": "a"}, "a.jsonl:2: no column `prompt`; expected `prompt` or `messages`; the row has `promt`; is it `promt`?"),
    (read.prompts, {"prompt": 3}, "a.jsonl:2: `prompt` must be text; found int 3"),
    (read.prompts, {"messages": [{"role": "usr", "content": "a"}]}, "a.jsonl:2: message 1 of `messages` has role str 'usr'; expected one of system, user, assistant; did you mean `user`?"),
    (read.prompts, {"messages": [{"role": "system", "content": "a"}]}, "a.jsonl:2: a prompt must end with a turn of the user"),
    (read.prompts, '{"prompt": "\\ud800"}', "a.jsonl:2: `prompt` holds half of a surrogate pair"),
    (read.prompts, "[" * 100_000, "a.jsonl:2: JSON that cannot be read"),
    (read.prompts, '{"prompt": ' + "1" * 5000 + "}", "a.jsonl:2: JSON that cannot be read"),
    (read.instructions, {"prompt": "a"}, "a.jsonl:2: no column `response`"),
    (read.instructions, {"messages": [USER]}, "a.jsonl:2: an instruction must end with a turn of the assistant"),
    (read.preferences, {"chosen": "x"}, "a.jsonl:2: no column `rejected`"),
    (read.preferences, {"chosen": "x", "rejected": "y"}, "a.jsonl:2: `chosen` has no `prompt` beside it, so it must be a whole dialogue"),
    (read.preferences, {"chosen": "\n\nHuman: A\n\nAssistant: x", "rejected": "\n\nHuman: B\n\nAssistant: x"}, "a.jsonl:2: `chosen` and `rejected` must share"),
    (read.preferences, {"prompt": "a", "responses": ["x"], "ratings": [1, 2]}, "a.jsonl:2: `ratings` must be a list with one entry a response (1)"),
    (read.preferences, {"prompt": "a", "responses": ["x"], "ratings": ["good"]}, "a.jsonl:2: a rating must be a number"),
    (read.preferences, {"prompt": "a", "responses": ["x"], "ratings": [float("nan")]}, "a.jsonl:2: a rating must be a number"),
    *((read.preferences, PAIR | {"margin": wrong}, "a.jsonl:2: `margin` must be a number from 0, by how much the chosen response is better; found ")
      for wrong in (-1, "much", True, [1])),
    (read.base_text, {"txt": "a"}, "a.jsonl:2: no column `text`"),
])
def test_a_bad_line_is_named(tmp_path, reader, bad, expected):
    good = {"prompt": "a", "response": "b", "chosen": "b", "rejected": "c", "text": "a"}
    assert expected in refused(reader, lines(tmp_path / "a.jsonl", good, bad))


def test_files_that_cannot_be_read(tmp_path):
    assert "did you mean" in refused(read.prompts, DataSource(path=str(lines(tmp_path / "prompts.jsonl", PAIR).path).replace("prompts", "prompt")))
    assert "has no rows; expected at least one" in refused(read.prompts, lines(tmp_path / "empty.jsonl"))
    assert "unknown kind of file" in refused(read.prompts, lines(tmp_path / "a.xml", "x"))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "a"}\n' * 100)[:-9])
    assert "cut.jsonl.gz:" in refused(read.prompts, DataSource(path=str(tmp_path / "cut.jsonl.gz")))
    (tmp_path / "plain.jsonl.gz").write_bytes(b"{}")
    assert "plain.jsonl.gz:1: cannot be read" in refused(read.prompts, DataSource(path=str(tmp_path / "plain.jsonl.gz")))
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    assert "not a Parquet file" in refused(read.prompts, DataSource(path=str(tmp_path / "a.parquet")))
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "a"}\n{"prompt": "\xe4"}\n')
    assert "latin.jsonl:2: not UTF-8 text" in refused(read.prompts, DataSource(path=str(tmp_path / "latin.jsonl")))


def test_places_in_a_json_array_and_in_csv(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\n[\n  {"prompt": "a"},\n\n  {"prompt": 4}\n]\n')
    assert f"{path}:5: `prompt` must be text" in refused(read.prompts, DataSource(path=str(path)))
    path.write_text('[{"prompt": "a"},\n {"prompt" 4}]')
    assert f"{path}:2: malformed JSON" in refused(read.prompts, DataSource(path=str(path)))
    sheet = tmp_path / "a.csv"
    sheet.write_text("prompt,x\na,1\nb\n")
    assert f"{sheet}:3: 1 cells, expected 2 as in the first line (prompt, x)" in refused(read.prompts, DataSource(path=str(sheet)))


def test_blank_lines_in_csv_belong_to_their_cell_and_count_as_lines(tmp_path):
    sheet = tmp_path / "a.csv"
    sheet.write_text('prompt,response\n"One\n\n\nTwo",x\n\n  \nThree,"y\n\nz"\nFour\n')
    rows = read_rows(DataSource(path=str(sheet)))
    assert [next(rows)[1], next(rows)[1]] == [
        {"prompt": "One\n\n\nTwo", "response": "x"}, {"prompt": "Three", "response": "y\n\nz"}]
    with pytest.raises(DataError, match=r"a.csv:11: 1 cells, expected 2"):
        next(rows)


@pytest.mark.parametrize(("name", "content", "expected"), [
    ("a.csv", "prompt,prompt\na,b\n", "a.csv:1: two columns of one name"),
    ("a.json", '[{"prompt": "a"}]\n[{"prompt": "b"}]\n', "a.json:1: there is more after the end of the list"),
    ("a.jsonl", '{"prompt": "a", "x": ' + "[" * 60 + "]" * 60 + "}", "a.jsonl:1: JSON that cannot be read: lists or objects nested more than 50 deep"),
    ("a.csv", "prompt,x\na," + "[" * 60 + "]" * 60 + "\n", "a.csv:2: JSON that cannot be read: lists or objects nested more than 50 deep"),
])
def test_what_would_be_lost_or_cannot_travel_is_refused(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    assert expected in refused(read.prompts, DataSource(path=str(tmp_path / name)))


def test_columns_may_change_places(tmp_path):
    source = lines(tmp_path / "a.jsonl", {"prompt": "the answer", "response": "the question"})
    source.columns = {"prompt": "response", "response": "prompt"}
    assert [turn["content"] for turn in read.instructions(source)[0]["messages"]] == ["the question", "the answer"]


def test_a_pipe_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.jsonl")
    assert "expected a file or a folder" in refused(read.prompts, DataSource(path=str(tmp_path / "a.jsonl")))


def test_messages_obey_no_terminal(tmp_path):
    said = refused(read.prompts, lines(tmp_path / "a.jsonl", {"\x1b]0;owned\x07\ud800\u202e": 1}))
    assert r"\x1b]0;owned\x07\ud800\u202e" in said


CELLS = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6), lambda inner: st.lists(inner, max_size=3), max_leaves=4)
NAMES = st.sampled_from(["prompt", "messages", "response", "responses", "ratings", "chosen", "rejected", "text", "role", "content"])
ROWS = st.dictionaries(NAMES, CELLS | st.lists(st.dictionaries(NAMES, CELLS, max_size=2), max_size=3) | st.just(PAIR["chosen"]), max_size=4)
READERS = st.sampled_from([read.prompts, read.instructions, read.preferences, read.base_text])


@given(st.lists(ROWS, max_size=3), READERS)
def test_no_row_raises_anything_but_our_error(tmp_path_factory, rows, reader):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        reader(DataSource(path=str(path)))
    except DataError as error:
        assert "fuzz.jsonl" in str(error)


@given(st.binary(max_size=80), st.sampled_from([".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"]))
@example(b"\xef\xbb\xbf", ".json")
@example(b"[", ".json")
@example(b'[{"a": 1} {', ".jsonl")
@example(b'a,b\n"', ".csv")
@example(b"\x00", ".csv")
def test_no_bytes_raise_anything_but_our_error(tmp_path_factory, content, ending):
    path = tmp_path_factory.getbasetemp() / f"bytes{ending}"
    path.write_bytes(content)
    try:
        list(read_rows(DataSource(path=str(path))))
    except DataError:
        pass


@given(st.text(max_size=40))
def test_any_text_is_a_dialogue_or_none(text):
    turns = parse_dialogue("\n\nHuman: " + text)
    assert turns and turns[0]["role"] == "user" and all(one["role"] != other["role"] for one, other in zip(turns, turns[1:], strict=False))


def test_held_out_prompts_agree_in_every_file_and_follow_the_seed():
    prompts = [[{"role": "user", "content": str(i)}] for i in range(2000)]
    held = held_out(prompts, 0.1, seed=0)
    assert 150 < sum(held) < 250
    assert held_out(prompts[500:600], 0.1, seed=0) == held[500:600]
    assert held_out(prompts, 0.1, seed=1) != held
    assert not any(held_out(prompts, 0.0, seed=0)) and sum(held_out(prompts[:3], 0.01, seed=0)) == 1


def test_what_is_derived_from_preferences_never_trains_on_a_held_out_prompt(tmp_path):
    rows = [{"prompt": f"Question {i}", "chosen": f"Good {i}", "rejected": f"Bad {i}"} for i in range(60)]
    source = lines(tmp_path / "a.jsonl", *rows)
    data = sources(RunConfig(data={"preferences": source, "hold_out": 0.2}), None)
    held = {row["messages"][0]["content"] for row in data.evaluation_prompts()}
    train, test = data.preference_split()
    assert held == {messages[0]["content"] for messages in test["messages"]} and 4 < len(held) < 25
    trained = [train["messages"], data.training_instructions()["messages"], [row["messages"] for row in data.training_prompts()]]
    for messages in trained:
        assert {turns[0]["content"] for turns in messages} == {row["prompt"] for row in rows} - held
    assert not any(prompt in text.split("\n") for prompt in held for text in data.training_text()["text"])


def test_practice_files_stand_in_for_what_is_not_given(tmp_path):
    class Folder:
        data = tmp_path

    found = sources(RunConfig(data={"practice": {}, "prompts": "mine.jsonl"}), Folder)
    assert found.prompts.path == "mine.jsonl" and found.preferences.path == str(tmp_path / "ratings.jsonl")
    with pytest.raises(ConfigError, match="data.prompts: this stage needs it"):
        sources(RunConfig(), None).need("prompts")


def test_long_prompts_stop_the_run_or_are_left_out_with_a_count():
    rows = [{"messages": [{"role": "user", "content": "x" * n}], "_at": f"f.jsonl:{n}"} for n in (3, 9, 5, 12)]

    def count(messages):
        return len(messages[0]["content"])

    kept, dropped = within_limit(rows, count, 5, "filter")
    assert ([row["_at"] for row in kept], dropped) == (["f.jsonl:3", "f.jsonl:5"], 2)
    with pytest.raises(DataError, match=r"f.jsonl:9: the prompt has 9 tokens, more than data.max_prompt_tokens \(5\); 2 of 4 prompts are too long, the longest has 12"):
        within_limit(rows, count, 5, "error")
    with pytest.raises(DataError, match="all 4 prompts have more than"):
        within_limit(rows, count, 2, "filter")


@pytest.mark.skipif(not HH.exists(), reason=f"{HH} is not here")
def test_real_preferences_in_their_own_format():
    rows = read.preferences(DataSource(path=str(HH)))
    assert len(rows) == 1512
    assert all(row["messages"][-1]["role"] == "user" for row in rows)
