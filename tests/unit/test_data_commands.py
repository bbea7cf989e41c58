"""`scale-rlhf data`: what check finds and names, what stats counts, what convert writes; without torch."""
# ruff: noqa: E501 - a row of a public form stays on one line

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scale_rlhf.cli import app
from scale_rlhf.config.schema import DataSource, PracticeSection
from scale_rlhf.data import progress
from scale_rlhf.data.convert import FORMS
from scale_rlhf.data.kinds import said
from scale_rlhf.data.practice.write import write_world
from scale_rlhf.data.rows import each_row, read_rows
from scale_rlhf.data.survey import Survey


def data(*arguments: object):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def written(path: Path, *rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[dict]:
    return [row for _, row in read_rows(DataSource(path=str(path)))]


def pair(prompt: str, chosen: str, rejected: str) -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_check_of_sound_data(tmp_path):
    done = data("check", written(tmp_path / "a.jsonl", pair("Hi", "Hello", "No"), {"prompt": "Hi", "response": "Hello"}))
    assert done.exit_code == 0
    assert done.stdout.splitlines()[:3] == [f"{tmp_path}/a.jsonl: 2 rows", "1 of kind pair, 1 of kind instruction", "bad rows: 0"]


def test_check_names_every_bad_line_and_goes_on(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "a", "response": "b"}\n{"prompt": \n\xff\n[1]\n{"promt": "a"}\n{"prompt": "a", "response": 4}\n{"prompt": "c"}\n')
    done = data("check", path, "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 1 and not found["ok"] and found["kinds"] == {"instruction": 1, "prompt": 1}
    assert [line.split(": ")[0] for line in found["bad"]["lines"]] == [f"{path}:{number}" for number in (2, 3, 4, 5, 6)]
    short = data("check", path, "--show", 2)
    assert short.exit_code == 1 and "bad rows: 5\n" in short.stdout and "  and 3 more" in short.stdout and f"{path}:4" not in short.stdout


def test_check_finds_what_stands_twice_and_what_is_held_out(tmp_path):
    held = written(tmp_path / "held.jsonl", {"prompt": "What is  it?"}, {"prompt": "Other"})
    train = written(tmp_path / "a.jsonl", pair("Hi", "a", "b"), pair("what is it?", "a", "b"), pair("Hi", "a", "b"), pair("Hi", "c", "c"), pair("Hi", "d", " "))
    found = json.loads(data("check", train, "--held-out", held, "--json").stdout)
    assert found["leaks"] == {"count": 1, "lines": [f"{train}:2: its prompt is held out at {held}:1"]}
    assert found["duplicates"] == {"count": 1, "lines": [f"{train}:3: the same as {train}:1"]}
    assert found["same"] == {"count": 1, "lines": [f"{train}:4: two of its responses are the same text"]}
    assert found["empty"] == {"count": 1, "lines": [f"{train}:5: response 2 of 2 is empty"]}
    assert data("check", train, "--held-out", held).exit_code == 1 and data("check", train).exit_code == 0


def test_check_of_a_kind_and_of_columns_of_another_name(tmp_path):
    path = written(tmp_path / "a.jsonl", {"question": "Hi", "chosen": "a", "rejected": "b"}, {"question": "Hi", "chosne": "a"})
    done = data("check", path, "--column", "prompt=question", "--kind", "pair")
    assert done.exit_code == 1 and f"{path}:2: the row is of kind prompt; expected pair" in done.stdout
    assert data("check", path, "--kind", "pairs").exit_code == 2
    assert "did you mean `pair`?" in data("check", path, "--kind", "pairs").stderr
    assert data("check", path, "--column", "prompt").exit_code == 2


def test_files_that_cannot_be_read(tmp_path):
    absent = data("check", tmp_path / "a.jsonl")
    assert absent.exit_code == 2 and "does not exist" in absent.stderr
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"prompt": "a"}\n' * 100)[:-9])
    done = data("check", cut)
    assert done.exit_code == 1 and "(what follows is not read)" in done.stdout
    assert "has no rows" in data("check", written(tmp_path / "empty.jsonl")).stdout


def test_stats_of_ratings(tmp_path):
    rows = [{"prompt": "Hi", "responses": ["long answer", "b"], "ratings": {"helpful": [[5, 4], [1, 1]], "honest": [3, 3]}},
            {"prompt": "Hi", "responses": ["c", "longer"], "ratings": {"helpful": [[3, 3], [0, 5]], "honest": [2, 1]}}]
    path = written(tmp_path / "a.jsonl", *rows)
    found = json.loads(data("stats", path, "--json").stdout)
    helpful, honest = found["ratings"]["helpful"], found["ratings"]["honest"]
    assert (helpful["count"], helpful["lowest"], helpful["highest"], helpful["mean"], helpful["raters"]) == (8, 0, 5, 22 / 8, [2, 2])
    assert helpful["lines"] == [f"{path}:2: response 2: 0, 5", f"{path}:1: response 1: 5, 4"]
    assert honest["raters"] == [1, 1] and honest["alpha_ordinal"] is None
    assert found["length"]["pairs"] == 2 and found["length"]["share"] == 0.5
    assert found["length"]["lines"] == [f"{path}:1: the preferred of 11 characters, the other of 1"]
    shown = data("stats", path)
    assert shown.exit_code == 0 and "ratings of helpful: 8, 0 to 5, 2.75 on average, by 2 raters a response" in shown.stdout
    assert "of 2 pairs that differ in it the longer response is preferred in 50.0%" in shown.stdout


def test_stats_of_judgements(tmp_path):
    path = written(tmp_path / "a.jsonl", *[{"prompt": "Hi", "response": "x" * (2 + good), "good": good} for good in (True, False)])
    done = data("stats", path)
    assert "good responses have 3.0 characters on average, bad ones 2.0" in done.stdout
    assert json.loads(data("stats", path, "--json").stdout)["judged"] == {"good": 1, "bad": 1}


def test_stats_of_the_practice_world(tmp_path):
    write_world(tmp_path, PracticeSection(base_lines=10, demonstrations=50, rated_prompts=200, prompts=50))
    found = json.loads(data("stats", tmp_path / "ratings.jsonl", "--json").stdout)
    assert found["kinds"] == {"rating": 200} and 0.4 <= found["ratings"][""]["alpha_interval"] <= 0.7
    checked = data("check", *(tmp_path / f"{name}.jsonl" for name in ("instructions", "ratings", "prompts")), "--held-out", tmp_path / "evaluation.jsonl")
    assert checked.exit_code == 0, checked.stdout


def test_neither_torch_nor_datasets_is_imported(tmp_path):
    path = written(tmp_path / "a.jsonl", pair("Hi", "a", "b"))
    code = ("import sys; from scale_rlhf.cli import app; from scale_rlhf.data.convert import FORMS; import scale_rlhf.data.convert.write; "
            f"app(['data', 'check', {str(path)!r}], standalone_mode=False); assert not {{'torch', 'datasets', 'ray'}} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_progress_of_big_files_alone(tmp_path, monkeypatch, capsys):
    path = written(tmp_path / "a.jsonl", *[{"prompt": "x" * 1000}] * 3000)
    source = DataSource(path=str(path))
    assert len(list(progress.rows_with_progress(source))) == 3000 and not capsys.readouterr().err
    monkeypatch.setattr(progress, "BIG", 1 << 20)
    assert len(list(progress.rows_with_progress(source))) == 3000
    assert "a.jsonl, MB 2/2" in capsys.readouterr().err


def test_how_far_a_file_is_read(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"prompt": str(i), "response": "x" * 50} for i in range(200)]
    path, packed, table = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz", tmp_path / "c.parquet"
    written(path, *rows)
    packed.write_bytes(gzip.compress(path.read_bytes()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    for file in (path, packed, table):
        places: list[int] = []
        assert len(list(each_row(DataSource(path=str(file)), moved=places.append))) == 200
        assert places == sorted(places) and places[-1] == file.stat().st_size


# --- public forms -------------------------------------------------------------------------------------------------------

def annotations(helpful: str, honest: str) -> dict:
    return {"helpfulness": {"Rating": helpful, "Rationale": "x"}, "honesty": {"Rating": honest}}


PUBLIC = {
    "hh-rlhf": (
        [{"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
         {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Human: why"}],
        [{"messages": [{"role": "user", "content": "Hi"}], "chosen": "Hello", "rejected": "No"},
         {"messages": [{"role": "user", "content": "Hi"}], "chosen": "Hello", "rejected": [{"role": "assistant", "content": "Human: why"}]}],
    ),
    "ultrafeedback": (
        [{"instruction": "Hi", "completions": [
            {"response": "a", "annotations": annotations("5", "3")}, {"response": "b", "annotations": annotations("1", "N/A")},
            {"response": "c", "annotations": annotations("2", "1")}]},
         {"instruction": "Hi", "completions": [{"response": "a", "annotations": annotations("N/A", "3")}]}],
        [{"prompt": "Hi", "responses": ["a", "c"], "ratings": {"helpful": [[5.0], [1.25]], "honest": [[2.5], [0.0]]}}],
    ),
    "helpsteer": (
        [{"prompt": "Hi", "response": "a", "helpfulness": 4, "correctness": 2, "verbosity": 4},
         {"prompt": "Hi", "response": "b", "helpfulness": [0, 1], "correctness": 0, "verbosity": 4},
         {"prompt": "One\n<extra_id_1>Assistant\nTwo\n<extra_id_1>User\nThree", "response_1": "a", "response_2": "b", "preference_strength": -2},
         {"prompt": "Hi", "response_1": "a", "response_2": "b", "preference_strength": 0},
         {"context": [{"role": "user", "content": "Hi"}], "response1": "a", "response2": "b", "overall_preference": 1}],
        [{"messages": [{"role": "user", "content": "Hi"}], "responses": ["a", "b"], "ratings": {"helpful": [[5.0], [0.0, 1.25]], "correctness": [[2.5], [0.0]]}},
         {"messages": [{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}, {"role": "user", "content": "Three"}], "chosen": "a", "rejected": "b"},
         {"messages": [{"role": "user", "content": "Hi"}], "chosen": "b", "rejected": "a"}],
    ),
    "summarize-from-feedback": (
        [{"info": {"post": "P", "title": "T", "subreddit": "s", "article": None}, "summaries": [{"text": " a"}, {"text": " b"}], "choice": 1},
         {"info": {"post": None, "article": "A"}, "summary": {"text": " a", "axes": {"overall": 7, "coverage": None}}, "worker": "1"},
         {"info": {"post": None, "article": "A"}, "summary": {"text": " a", "axes": {"overall": 4}}, "worker": "2"},
         {"info": {"post": None, "article": "A"}, "summary": {"text": " b", "axes": {"overall": 1}}, "worker": "1"},
         {"info": {"post": None, "article": "A"}, "summary": {"text": " b", "axes": {"overall": None}}, "worker": "2"}],
        [{"messages": [{"role": "user", "content": "SUBREDDIT: r/s\n\nTITLE: T\n\nPOST: P\n\nTL;DR:"}], "chosen": "b", "rejected": "a"},
         {"messages": [{"role": "user", "content": "A\n\nTL;DR:"}], "responses": ["a", "b"], "ratings": {"overall": [[5.0, 2.5], [0.0]]}}],
    ),
}


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("form", FORMS)
def test_public_forms(tmp_path, form, ending):
    theirs, ours = PUBLIC[form]
    out = tmp_path / f"out{ending}"
    done = data("convert", form, written(tmp_path / "in.jsonl", *theirs), out)
    assert done.exit_code == 0 and f"{len(ours)} rows from {len(theirs)}" in done.stdout
    assert rows_of(out) == ours and data("check", out).exit_code == 0
    assert [file.name for file in tmp_path.iterdir() if file.name.endswith(".partial")] == []


def test_rows_of_a_public_form_that_are_bad_are_named_and_left_out(tmp_path):
    good = {"prompt": "Hi", "response": "a", "helpfulness": 4}
    source = written(tmp_path / "in.jsonl", good, {"prompt": "Hi", "response": "b", "helpfulness": 5}, "{", {"prompt": "Hi", "response": "b"})
    done = data("convert", "helpsteer", source, tmp_path / "out.jsonl")
    assert done.exit_code == 1 and len(rows_of(tmp_path / "out.jsonl")) == 1
    assert f"{source}:2: a rating must be a number from 0 to 4; found int 5" in done.stderr
    assert f"{source}:3: malformed JSON" in done.stderr and f"{source}:4: no column `helpfulness`" in done.stderr and "3 bad rows left out" in done.stderr


def test_nothing_is_overwritten_and_nothing_is_left_half_written(tmp_path):
    source, out = written(tmp_path / "in.jsonl", PUBLIC["hh-rlhf"][0][0]), tmp_path / "out.jsonl"
    assert data("convert", "hh-rlhf", source, source).exit_code == 2
    assert "expected a name that ends with .jsonl" in data("convert", "hh-rlhf", source, tmp_path / "out.csv").stderr
    assert "cannot be written" in data("convert", "hh-rlhf", source, tmp_path / "nowhere" / "out.jsonl").stderr
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(source.read_bytes() * 50)[:-9])
    assert data("convert", "hh-rlhf", cut, out).exit_code == 2 and not out.exists()
    assert {file.name for file in tmp_path.iterdir()} == {"in.jsonl", "cut.jsonl.gz"}


def test_forms_are_named():
    shown = data("convert", "--help").stdout
    assert all(form in shown.replace("\n", "") for form in ("hh-rlhf", "ultrafeedback", "helpsteer"))
    done = data("convert", "ultrafeedbak", "a.jsonl", "b.jsonl")
    assert done.exit_code == 2 and f"expected one of {', '.join(FORMS)}; did you mean `ultrafeedback`?" in done.stderr


def test_a_survey_keeps_as_many_lines_as_it_is_told():
    survey = Survey(keep=2)
    survey.take("f", ((f"f:{i}", {"prompt": "Hi", "responses": ["a", "b" * i], "ratings": [[5, 0], [i, 0]]}) for i in range(1, 9)))
    ratings = survey.ratings[""]
    assert ratings.differ.lines == ["f:8: response 2: 8, 0", "f:7: response 2: 7, 0"] and ratings.numbers.count == 32
    assert len(survey.lengths.far.lines) == 2 and survey.kinds == {"rating": 8} and said({"prompt": "x"}, "f:1").kind == "prompt"
