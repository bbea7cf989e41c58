"""Which checkpoint a supervised stage goes on from, and what is said where none, or not the newest one, will do."""

import dataclasses

import pytest

from scale_rlhf.config.schema import ModelSection
from scale_rlhf.config.supervised import SupervisedSection
from scale_rlhf.errors import RunError
from scale_rlhf.orchestration.checksums import MANIFEST
from scale_rlhf.training.layout import lay_out
from scale_rlhf.training.resuming import CHECKPOINTS, going_on, seal_checkpoint, training_of
from scale_rlhf.training.supervised import Job

SETTINGS = {"batch_size": 4, "microbatch": 2, "workers": 2}


def job(folder, seed=0, **settings) -> Job:
    section = SupervisedSection(**SETTINGS | settings)
    (folder / "rows").mkdir(exist_ok=True)
    (folder / "rows" / "data-00000-of-00001.arrow").write_bytes(b"tokens")
    (folder / "rows" / "state.json").write_text('{"a name that datasets": "draws"}')
    layout = lay_out([3] * 21, section, seed)
    return Job("language", section, ModelSection(), None, seed, layout, folder, folder / "out", False)


@pytest.fixture
def stage(tmp_path):
    """A stage that was interrupted after its checkpoints of steps 2 and 4."""
    (tmp_path / CHECKPOINTS / "runs").mkdir(parents=True)  # not a checkpoint
    for step in (2, 4):
        checkpoint = tmp_path / CHECKPOINTS / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "states.pt").write_bytes(b"a pickle of step %d" % step)
        seal_checkpoint(tmp_path / CHECKPOINTS, step, training_of(job(tmp_path), "sft"))
    return tmp_path


def test_a_new_stage_begins_at_the_beginning_and_says_nothing(tmp_path, capsys):
    begun = going_on(job(tmp_path), "sft", "sft")
    assert (begun.checkpoint, begun.done) == (None, 0) and begun.training["sft.workers"] == 2
    assert capsys.readouterr().out == ""


def test_the_newest_whole_checkpoint_is_taken(stage, capsys):
    resumed = going_on(job(stage), "sft", "sft")
    assert (resumed.checkpoint, resumed.done) == (stage / CHECKPOINTS / "checkpoint-4", 4)
    assert capsys.readouterr().out == "  note: sft goes on after step 4 of 6\n"


def test_step_10_is_newer_than_step_4(stage):
    (stage / CHECKPOINTS / "checkpoint-2").rename(stage / CHECKPOINTS / "checkpoint-10")
    assert going_on(job(stage), "sft", "sft").checkpoint.name == "checkpoint-10"


@pytest.mark.parametrize("harm, said", [
    (lambda path: (path / MANIFEST).unlink(), "it has no manifest.json: it was not written to its end"),
    (lambda path: (path / "states.pt").write_bytes(b"a pickle of step 5"), "states.pt is not what was written (checksum)"),
    (lambda path: (path / "states.pt").write_bytes(b"a pick"), "states.pt has 6 bytes instead of 18"),
    (lambda path: (path / "states.pt").unlink(), "states.pt is missing"),
])
def test_a_checkpoint_that_is_not_whole_is_named_and_the_one_before_is_used(stage, capsys, harm, said):
    newest = stage / CHECKPOINTS / "checkpoint-4"
    harm(newest)
    resumed = going_on(job(stage), "sft", "sft")
    assert (resumed.checkpoint.name, resumed.done) == ("checkpoint-2", 2)
    printed = capsys.readouterr().out
    assert f"{newest} is not used: {said}\n" in printed and "goes on after step 2" in printed
    assert not newest.exists()  # the Trainer would keep it and remove the whole one


def test_where_none_is_whole_the_stage_begins_anew(stage, capsys):
    for file in (stage / CHECKPOINTS).glob("*/states.pt"):
        file.write_bytes(b"")
    begun = going_on(job(stage), "sft", "sft")
    assert (begun.checkpoint, begun.done) == (None, 0)
    assert "sft begins anew: none of its checkpoints is whole" in capsys.readouterr().out
    assert [path.name for path in (stage / CHECKPOINTS).iterdir()] == ["runs"]


@pytest.mark.parametrize("settings, said", [
    ({"workers": 1}, "sft.workers is 1 and was 2 when it was written"),
    ({"learning_rate": 0.5, "zero_stage": 3}, "sft.learning_rate is 0.5 and was 0.001 when it was written; sft.zero_stage is 3"),
    ({"batch_size": 8}, "sft.batch_size is 8 and was 4"),
    ({"seed": 1}, "run.seed is 1 and was 0"),
])
def test_another_training_is_refused_in_words_that_say_what_to_do(stage, settings, said):
    damaged = stage / CHECKPOINTS / "checkpoint-6"
    damaged.mkdir()
    with pytest.raises(RunError) as error:
        going_on(job(stage, **settings), "sft", "sft")
    assert said in str(error.value) and "its rows" not in str(error.value)
    assert str(error.value).endswith(f"Set that back, or delete {stage / CHECKPOINTS} to begin this stage anew")
    assert damaged.exists()


def test_other_rows_are_refused(stage):
    changed = job(stage)
    (stage / "rows" / "data-00000-of-00001.arrow").write_bytes(b"others")
    with pytest.raises(RunError, match="its rows, or their order, are not those it was trained on. Set that back, or delete"):
        going_on(changed, "sft", "sft")


def test_an_order_from_another_release_is_refused(stage):
    changed = job(stage)
    layout = dataclasses.replace(changed.layout, order=changed.layout.order[::-1].copy())
    with pytest.raises(RunError, match="its rows, or their order"):
        going_on(dataclasses.replace(changed, layout=layout), "sft", "sft")


def test_what_leaves_a_step_as_it_is_may_change(stage):
    free = {"microbatch": 1, "gradient_checkpointing": True, "save_every": 7, "cpus": 2, "threads": 2, "model": "elsewhere"}
    assert going_on(job(stage, **free), "sft", "sft").done == 4


def test_the_reward_stage_is_named_by_its_section(stage):
    assert "reward_model.workers" in training_of(job(stage), "reward_model")
