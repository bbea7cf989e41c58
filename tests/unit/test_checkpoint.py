"""Which checkpoints are made, kept, and gone on from; the ledger; and what may change between a run and its resume."""

import asyncio
import json
from types import SimpleNamespace

import numpy as np
import pytest

from scale_rlhf.config.changes import changes
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.experience.buffer import Scored
from scale_rlhf.experience.prompts import PromptStream
from scale_rlhf.experience.sample import Sample
from scale_rlhf.orchestration import checksums, ledger
from scale_rlhf.orchestration.checkpoint import Checkpoints, discard_after
from scale_rlhf.orchestration.loop_state import LoopState

PROMPTS = PromptStream([[1, 2], [3]], [{}, {}], responses=1, seed=0)


class Group:
    """Ranks of a role: they write what they are told."""

    def __init__(self, name: str):
        self.name, self.fails = name, None

    async def checkpoint(self, folder: str) -> None:
        self.folder = folder

    async def checkpointed(self, seconds: float) -> dict:
        from pathlib import Path

        if self.fails:
            raise self.fails
        path = Path(self.folder) / "rank-0000.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"weights of {self.name}")
        return {path.name: checksums.describe_file(path)}


@pytest.fixture
def roles():
    return SimpleNamespace(policy=Group("policy"), value=Group("value"))


def config(**checkpoint) -> RunConfig:
    return RunConfig(checkpoint=checkpoint)


def save(folder, roles, versions, scores=None, **checkpoint) -> Checkpoints:
    made = Checkpoints(folder, config(**checkpoint), "prompts")

    async def go():
        for place, version in enumerate(versions):
            await made.save(LoopState(version=version), roles, scores[place] if scores else 0.0)
        await made.finish()

    asyncio.run(go())
    return made


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_so_many_steps_or_minutes():
    now = [0.0]
    by_number, by_steps, by_time = (
        Checkpoints("none", config(save_every=every), "", lambda: now[0]) for every in (3, "3 steps", "2 min"))
    assert [version for version in range(1, 10) if by_steps.due(version) and by_number.due(version)] == [3, 6, 9]
    assert not by_time.due(1)
    now[0] = 120.0
    assert by_time.due(2)
    assert not Checkpoints("none", config(save_every=None), "").due(1)
    for wrong in ("0 steps", "often", "3 hours", 0):
        with pytest.raises(ValueError, match="save_every"):
            config(save_every=wrong)


def test_the_newest_and_the_best_are_kept(tmp_path, roles):
    save(tmp_path, roles, [1, 2, 3, 4, 5], [0.0, 9.0, 1.0, 2.0, 3.0], keep_last=2)
    assert names(tmp_path) == ["step-000002", "step-000004", "step-000005"]
    save(tmp_path, roles, [6], [0.0], keep_last=1, keep_best=False)
    assert names(tmp_path) == ["step-000006"]


def test_a_checkpoint_is_whole_or_absent(tmp_path, roles):
    made = save(tmp_path, roles, [1, 2])
    files = ["config.yaml", "loop.json", "manifest.json", "policy", "samples.safetensors", "value"]
    assert names(tmp_path / "step-000002") == files
    roles.value.fails = RunError("the disk is full")
    with pytest.raises(RunError, match="the disk is full"):
        save(tmp_path, roles, [3])
    assert made.newest(print).name == "step-000002" and "step-000003" not in names(tmp_path)
    roles.value.fails = None
    save(tmp_path, roles, [4])
    assert names(tmp_path) == ["step-000002", "step-000004"]  # nothing half-made is left


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "more", "no manifest", "torn manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, roles, damage):
    made, said = save(tmp_path, roles, [1, 2]), []
    file, manifest = tmp_path / "step-000002" / "value" / "rank-0000.safetensors", tmp_path / "step-000002" / "manifest.json"
    {"cut": lambda: file.write_text("weights"), "changed": lambda: file.write_text("weights of VALUE".replace("VALUE", "valuf")),
     "missing": file.unlink, "more": lambda: (tmp_path / "step-000002" / "other").touch(), "no manifest": manifest.unlink,
     "torn manifest": lambda: manifest.write_text(manifest.read_text()[:30])}[damage]()
    assert made.newest(said.append).name == "step-000001"
    assert len(said) == 1 and said[0].startswith("checkpoint step-000002 is damaged and not used: ")


def test_no_checkpoint_at_all_is_no_error(tmp_path):
    assert Checkpoints(tmp_path / "none", config(), "").newest(print) is None


def test_other_prompts_are_refused(tmp_path, roles):
    save(tmp_path, roles, [1])
    with pytest.raises(RunError, match="other training prompts"):
        Checkpoints(tmp_path, config(), "others").newest(print)


def test_checkpoints_of_undone_steps_are_removed(tmp_path, roles):
    save(tmp_path, roles, [1, 2, 3], keep_last=5)
    discard_after(tmp_path, 2)
    assert names(tmp_path) == ["step-000001", "step-000002"]


def sample(index: int) -> Sample:
    logprobs, versions = np.array([-1.5, -0.25], np.float32), np.array([3, 4], np.int32)
    return Sample(PROMPTS[index], np.array([5, 6], np.int32), logprobs, versions, index % 2 == 0)


def test_the_loops_state_is_read_as_it_was_written(tmp_path):
    scored = [Scored(sample(index), index / 3, np.array([0.1, 0.2], np.float32)) for index in (7, 5)]
    state = LoopState(4, 0.123456789, 9, 2, [(5, 3), (7, 3), (8, 4)], scored, [sample(1)])
    state.write(tmp_path)
    read = LoopState.read(tmp_path, PROMPTS)
    assert (read.version, read.kl_coefficient, read.admitted, read.filtered) == (4, 0.123456789, 9, 2)
    assert read.in_flight == state.in_flight
    assert list(read.unfinished()) == [8]
    for found, expected in zip(read.scored, scored, strict=True):
        assert found.score == expected.score and found.sample.index == expected.sample.index
        assert found.sample.ended == expected.sample.ended
        np.testing.assert_array_equal(found.reference_logprobs, expected.reference_logprobs)
        for name in ("response_ids", "logprobs", "versions"):
            array = getattr(found.sample, name)
            np.testing.assert_array_equal(array, getattr(expected.sample, name))
            assert array.dtype == getattr(expected.sample, name).dtype
        np.testing.assert_array_equal(found.sample.prompt.token_ids, expected.sample.prompt.token_ids)
    assert read.probe[0].prompt.token_ids.tolist() == sample(1).prompt.token_ids.tolist()


def write(path, lines) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_going_back_moves_what_it_undoes(tmp_path):
    write(tmp_path / ledger.TRAINED, [{"step": 1 + index // 2, "index": index} for index in (0, 1, 2, 4)])
    write(tmp_path / ledger.FILTERED, [{"index": 3, "filtered": "no score"}, {"index": 6, "filtered": "no score"}])
    with open(tmp_path / ledger.TRAINED, "a") as file:
        file.write('{"step": 3, "ind')  # the process died while it wrote
    undone = ledger.go_back(tmp_path, LoopState(version=1, admitted=5, in_flight=[(2, 0), (4, 0)]))
    assert undone == 3
    void = [json.loads(line) for line in (tmp_path / ledger.VOID).read_text().splitlines()]
    assert [line["index"] for line in void] == [2, 4, 6] and all(line["undone_by_going_back_to"] == 1 for line in void)
    assert ledger.account(tmp_path, 5, in_flight=[2, 4]) == {"trained": 2, "filtered": 1, "void": 3}


@pytest.mark.parametrize("indices,said", [([0, 1, 1, 2], r"twice \[1\]"), ([0, 2], r"missing \[1\]")])
def test_what_is_not_accounted_for_is_an_error(tmp_path, indices, said):
    write(tmp_path / ledger.TRAINED, [{"index": index} for index in indices])
    with pytest.raises(RunError, match=said):
        ledger.account(tmp_path, 3)


def test_harmless_and_harmful_changes():
    before, after = RunConfig(), RunConfig()
    after.run.seed, after.rollout.engines, after.policy.workers, after.model.path = 1, 4, 2, "other"
    after.limits.update_seconds, after.ppo.steps, after.ppo.prompts_per_step = 5.0, 200, 3
    found = {change.key: change.harmful for change in changes(before, after)}
    assert found == {"run.seed": True, "model.path": True, "rollout.engines": False, "policy.workers": False, "ppo.steps": False,
                     "ppo.prompts_per_step": True, "limits.update_seconds": False}
    assert str(changes(before, after)[0]) == "run.seed: 0 → 1"
    assert changes(before, before) == []


def test_a_password_is_no_change():
    before, after = RunConfig(reward={"url": "https://***@host/score"}), RunConfig(reward={"url": "https://me:word@host/score"})
    assert changes(before, after) == []
