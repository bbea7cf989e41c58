"""A run whose every process is killed goes on from its last checkpoint: the same run, bit for bit, or at least no work lost."""

from pathlib import Path

import pytest
import yaml

from scale_rlhf.orchestration import ledger
from tests.chaos.faults import BATCH, CONFIG, STEPS, Run, lines, same_run


def kill_at(home: Path, name: str, step: int, *overrides: str, **how: str) -> Run:
    """A run of which every process is killed once it has made `step` steps, and its checkpoint before that is whole."""
    run = Run(home, name, *overrides, **how)
    last = run.folder / "ppo" / "checkpoints" / f"step-{step // 2 * 2:06d}"
    try:
        run.until(lambda: last.is_dir() and len(run.steps()) >= step)
        run.kill_everything()
    finally:
        run.clean()
    return run


@pytest.mark.timeout(900)
def test_a_killed_run_goes_on_bit_for_bit(home, undisturbed):
    """After step 13 of 14; the checkpoint of step 12 is damaged, so it goes on from step 10, and steps 11 to 13 are void."""
    run = kill_at(home, "killed", STEPS - 1)
    folder = run.folder
    damaged = folder / "ppo" / "checkpoints" / "step-000012" / "policy" / "rank-0000.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    before = lines(folder / "ppo" / "samples.jsonl")
    run.resume()
    said = run.finish()
    assert "checkpoint step-000012 is damaged and not used: policy/rank-0000.safetensors is not what was written" in said
    assert "ppo goes on from step 10" in said
    same_run(folder, undisturbed)
    void = lines(folder / "ppo" / ledger.VOID)
    assert [one["index"] for one in void] == [one["index"] for one in before if one["step"] > 10] != []
    assert ledger.account(folder / "ppo", STEPS * BATCH)["trained"] == STEPS * BATCH


@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_overlapped_run_trains_every_prompt_once_whatever_was_killed(home):
    """With two engines and one policy rank before, one engine and two ranks after; without a value model (GRPO)."""
    critic_free = {key: section for key, section in CONFIG.items() if key != "value"}
    pairs = {"advantages": "group_relative", "prompts_per_step": BATCH // 2, "responses_per_prompt": 2}
    critic_free["ppo"] = CONFIG["ppo"] | pairs
    (home / "grpo.yaml").write_text(yaml.safe_dump(critic_free | {"model": {"path": str(home / "model")}}))
    settings = ["overlap.max_staleness=2", "rollout.engines=2", "overlap.score_group=16"]
    run = kill_at(home, "overlapped", 3, *settings, config="grpo.yaml")
    folder = run.folder
    run.resume("rollout.engines=1", "policy.workers=2")
    said = run.finish()
    assert "rollout.engines: 2 → 1" in said
    samples = lines(folder / "ppo" / "samples.jsonl")
    assert sorted(one["index"] for one in samples) == list(range(STEPS * BATCH))
    assert [one["step"] for one in lines(folder / "metrics" / "ppo.jsonl")] == list(range(1, STEPS + 1))
    assert all(one["staleness/max"] <= 2 for one in lines(folder / "metrics" / "ppo.jsonl"))
