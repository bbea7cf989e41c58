"""Every process of a run killed in turn: the run goes on by itself, and ends as if nothing had happened, to the bit."""

import signal

import pytest

from scale_rlhf.orchestration import ledger
from tests.chaos.faults import BATCH, STEPS, Run, lines, same_run

# What servers did, and the probe, which an engine that is not there is not shown.
DONE_AGAIN = ("reward_server/", "reference_server/", "parity/")


# What is killed, and what the run says of it; nothing is said of a function's process, whose call is tried again.
SAID = {"rollout": "rollout engine 0 starts again", "vllm": "rollout engine 0 starts again", "reward": "",
        "reference": "reference replica 0 starts again", "policy": "from its newest checkpoint, starts again",
        "value": "from its newest checkpoint, starts again", "controller": "the controller was ended by SIGKILL; the run goes on"}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("roles", [["vllm", "reference", "policy"], pytest.param(list(SAID), marks=pytest.mark.long)], ids=len)
def test_every_process_may_die(home, undisturbed, roles):
    """Synchronous: who is replaced serves the same samples again, and a loop that goes back makes the same steps again."""
    run, killed = Run(home, f"{len(roles)}-killed"), []
    try:
        for role in roles:
            before = len(run.steps())
            run.until(lambda before=before: len(run.steps()) > before)
            if len(run.steps()) >= STEPS - 1:
                break
            run.send(role)
            killed.append(role)
        said = run.finish()
    finally:
        run.clean()
    assert len(killed) >= len(roles) - 1 and all(SAID[role] in said for role in killed)
    same_run(run.folder, undisturbed, but=DONE_AGAIN)
    assert ledger.account(run.folder / "ppo", STEPS * BATCH)["trained"] == STEPS * BATCH
    assert lines(run.folder / "ppo" / ledger.VOID) or "policy" not in killed


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
