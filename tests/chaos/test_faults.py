"""Every process of a run killed in turn: the run goes on by itself, and ends as if nothing had happened, to the bit."""

import signal

import pytest

from scale_rlhf.orchestration import ledger
from tests.chaos.faults import BATCH, STEPS, Run, lines, same_run

# What servers did, and the probe, which an engine that is not there is not shown.
DONE_AGAIN = ("reward_server/", "reference_server/", "parity/")


@pytest.mark.timeout(900)
def test_every_process_may_die(home, undisturbed):
    """Synchronous: who is replaced serves the same samples again, and a loop that goes back makes the same steps again."""
    run = Run(home, "every-process-killed")
    try:
        for role in ("rollout", "vllm", "reward", "reference", "policy", "value", "controller"):
            before = len(run.steps())
            run.until(lambda before=before: len(run.steps()) > before)
            if len(run.steps()) >= STEPS - 1:
                break
            run.send(role)
        said = run.finish()
    finally:
        run.clean()
    for who in ("rollout engine 0 starts again", "reference replica 0 starts again", "from its newest checkpoint, starts again",
                "the controller was ended by SIGKILL; the run goes on"):
        assert who in said
    same_run(run.folder, undisturbed, but=DONE_AGAIN)
    assert ledger.account(run.folder / "ppo", STEPS * BATCH)["trained"] == STEPS * BATCH
    assert lines(run.folder / "ppo" / ledger.VOID)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_silent_process_is_named_and_replaced(home, undisturbed):
    """SIGSTOP: the process is there and does not answer."""
    deadlines = ["limits.generate_seconds=15", "limits.score_seconds=15", "limits.update_seconds=30", "recovery.answer_seconds=3"]
    run = Run(home, "stopped", *deadlines)
    try:
        for role in ("rollout", "reference", "policy"):
            before = len(run.steps())
            run.until(lambda before=before: len(run.steps()) > before)
            run.send(role, signal.SIGSTOP)
        said = run.finish()
    finally:
        run.clean()
    assert "rollout engine 0" in said and "did not end within 15 s" in said and "policy rank 0" in said
    same_run(run.folder, undisturbed, but=DONE_AGAIN)
