"""The practice world's files: the same bytes for the same seed, the formats, the raters, and what is held out."""

import json
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from scale_rlhf.config.schema import PracticeSection
from scale_rlhf.data.agreement import krippendorff_alpha
from scale_rlhf.data.practice import answers, facts, tasks
from scale_rlhf.data.practice.raters import RATERS
from scale_rlhf.data.practice.write import write_world

SMALL = PracticeSection(seed=3, base_lines=400, demonstrations=400, rated_prompts=400, prompts=300)
COLUMNS = {
    "base": {"text"}, "base_heldout": {"text"}, "instructions": {"prompt", "response"},
    "ratings": {"prompt", "responses", "ratings"}, "prompts": {"prompt"}, "evaluation": {"prompt", "should"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, SMALL)
    return folder


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_same_seed_same_bytes(world, tmp_path):
    write_world(tmp_path / "again", SMALL)
    write_world(tmp_path / "other", SMALL.model_copy(update={"seed": 4}))
    for name in COLUMNS:
        first = (world / f"{name}.jsonl").read_bytes()
        assert first == (tmp_path / "again" / f"{name}.jsonl").read_bytes()
        assert first != (tmp_path / "other" / f"{name}.jsonl").read_bytes()


def test_one_size_leaves_the_other_files_alone(world, tmp_path):
    write_world(tmp_path, SMALL.model_copy(update={"demonstrations": 10}))
    assert len(rows(tmp_path, "instructions")) == 10
    for name in COLUMNS.keys() - {"instructions"}:
        assert (world / f"{name}.jsonl").read_bytes() == (tmp_path / f"{name}.jsonl").read_bytes()


def test_formats(world):
    for name, columns in COLUMNS.items():
        assert all(row.keys() == columns for row in rows(world, name)), name
    for name, size in (("base", 400), ("instructions", 400), ("ratings", 400), ("prompts", 300)):
        assert len(rows(world, name)) == size
    for row in rows(world, "ratings"):
        assert len(row["responses"]) == len(set(row["responses"])) == len(row["ratings"]) == 4
        assert all(len(ratings) == len(RATERS) == 3 and set(ratings) <= set(range(6)) for ratings in row["ratings"])
    assert all(row["response"].strip() and row["prompt"].strip() for row in rows(world, "instructions"))


def test_every_style_is_among_demonstrations(world):
    """Helpful, plain, half-hearted, useless and wrong, each in good number."""
    counts = dict.fromkeys(("helpful", "plain", "halfhearted", "useless", "wrong"), 0)
    for row in rows(world, "instructions"):
        honest = {answer.text: answer.style for answer in answers.honest_answers(tasks.parse(row["prompt"]))}
        counts[honest.get(row["response"], "wrong")] += 1
    assert all(count >= 40 for count in counts.values()), counts


def test_raters_err_on_at_least_one_in_ten():
    """Each rater, against the quality the answer was made with, and together by two points or more in one of ten."""
    random, errors, large = Random(0), [0, 0, 0], [0, 0, 0]
    for i in range(6000):
        for rater, by in enumerate(RATERS):
            off = abs(by.rate(i % 6, random) - i % 6)
            errors[rater] += off > 0
            large[rater] += off > 1
    assert min(errors) >= 600 and sum(large) >= 1800, (errors, large)
    assert max(errors) < 4500


def test_raters_agree_as_people_do(world):
    alpha = krippendorff_alpha([ratings for row in rows(world, "ratings") for ratings in row["ratings"]])
    assert 0.4 <= alpha <= 0.7, alpha


def test_held_out_prompts_are_nowhere_in_training(world):
    held_out = {row["prompt"] for row in rows(world, "evaluation")}
    assert len(held_out) >= 200
    trained = {row["prompt"] for name in ("instructions", "ratings", "prompts") for row in rows(world, name)}
    shown = {line for name in ("base", "base_heldout") for row in rows(world, name) for line in row["text"].split("\n")}
    assert not held_out & (trained | shown)


def test_held_out_wordings_are_nowhere_in_training(world):
    """Not only the prompts: no training prompt of any task is in a held-out wording."""
    held_out = [re.compile(re.escape(wording).replace(r"\{0\}", ".+").replace(r"\{1\}", ".+"))
                for group in tasks.HELD_OUT_WORDINGS.values() for wording in group]
    prompts = {row["prompt"] for name in ("instructions", "ratings", "prompts") for row in rows(world, name)}
    prompts |= {line for row in rows(world, "base") for line in row["text"].split("\n")}
    assert not [prompt for prompt in prompts if any(wording.fullmatch(prompt) for wording in held_out)]
    evaluation = [row["prompt"] for row in rows(world, "evaluation")]
    share = sum(any(wording.fullmatch(prompt) for wording in held_out) for prompt in evaluation) / len(evaluation)
    assert 0.5 < share < 0.8  # the rest is in trained wordings, never trained on with that fact


def test_every_task_is_trained_in_other_wordings():
    for kind in tasks.known_tasks().values():
        for task in kind:
            trained, held_out = tasks.training_prompts(task), tasks.held_out_prompts(task)
            assert len(trained) >= 5 and len(held_out) == 3 and not set(trained) & set(held_out)


def test_prompts_read_back_to_their_tasks():
    for kind in tasks.known_tasks().values():
        for task in kind:
            for prompt in (*tasks.training_prompts(task), *tasks.held_out_prompts(task)):
                assert tasks.parse(prompt) == task, prompt
    assert tasks.parse("Good morning.") is None


def test_base_text_asks_and_states_but_never_answers(world):
    """A question is followed by another question or by the end of its list."""
    facts_seen = 0
    for row in rows(world, "base"):
        asking = [tasks.parse(line) is not None for line in row["text"].split("\n")]
        assert len(set(asking)) == 1, row["text"]
        facts_seen += not asking[0]
    assert 150 < facts_seen < 350


def test_every_capital_is_stated_in_base_text(tmp_path):
    write_world(tmp_path, PracticeSection(base_lines=3000, demonstrations=1, rated_prompts=1, prompts=1))
    text = (tmp_path / "base.jsonl").read_text(encoding="utf-8")
    for country, city in facts.CAPITALS.items():
        assert f"The capital of {country} is {city}." in text


def test_the_world_is_written_where_the_truth_cannot_be_imported(tmp_path):
    program = f"""
import sys
for name in ("truth", "grades", "reading"):
    sys.modules["scale_rlhf.data.practice." + name] = None
from pathlib import Path
from scale_rlhf.config.schema import PracticeSection
from scale_rlhf.data.practice.write import write_world
write_world(Path({str(tmp_path)!r}), PracticeSection(base_lines=5, demonstrations=5, rated_prompts=5, prompts=5))
try:
    import scale_rlhf.data.practice.truth
except ImportError:
    print("blocked")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "blocked", done.stderr
    assert len(rows(tmp_path, "ratings")) == 5
