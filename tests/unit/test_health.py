"""Fleet health and the budget of restarts: every transition, with a clock that the test turns."""

import itertools

import pytest

from scale_rlhf.config.schema import RecoverySection
from scale_rlhf.errors import RunError
from scale_rlhf.orchestration.health import Budget, Health, State

WHAT = ("late", "answered", "died", "restart", "started", "loaded")
# All that may happen, of 5 states × 6 events; everything else is no news.
NEWS = {
    (State.HEALTHY, "late"): State.SUSPECT, (State.HEALTHY, "died"): State.DEAD,
    (State.SUSPECT, "answered"): State.HEALTHY, (State.SUSPECT, "died"): State.DEAD,
    (State.DEAD, "restart"): State.RESTARTING,
    (State.RESTARTING, "died"): State.DEAD, (State.RESTARTING, "started"): State.STALE,
    (State.STALE, "died"): State.DEAD, (State.STALE, "loaded"): State.HEALTHY,
}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("state,what", list(itertools.product(State, WHAT)))
def test_every_transition(state, what):
    clock = Clock()
    health = Health(["a", "b"], clock, stale=True)
    health.states[1] = state
    clock.now = 107.0
    assert health.tell(1, what) == ((state, what) in NEWS)
    assert health.states == [State.HEALTHY, NEWS.get((state, what), state)]
    assert health.since[1] == (107.0 if (state, what) in NEWS else 100.0)


def test_what_does_not_lack_weights_serves_as_soon_as_it_has_started():
    health = Health(["a"], Clock(), stale=False)
    for what in ("died", "restart", "started"):
        assert health.tell(0, what)
    assert health.states == [State.HEALTHY] and not health.tell(0, "loaded")


def test_only_the_healthy_serve():
    health = Health(list("abcde"), Clock(), stale=True)
    for place, state in enumerate(State):
        health.states[place] = state
    assert health.serving == [list(State).index(State.HEALTHY)]


def test_restarts_wait_longer_each_time_and_old_ones_are_forgiven():
    clock, said = Clock(), []
    section = RecoverySection(restarts=4, window_minutes=10, backoff_seconds=2, backoff_limit_seconds=7)
    budget = Budget(section, clock, said.append)
    assert [budget.spend("engine 0", "it died") for _ in range(4)] == [2, 4, 7, 7]
    assert said[1] == "it died\n  engine 0 starts again in 4 s (restart 2 of 4)"
    clock.now += 10 * 60 + 1
    assert budget.spend("engine 1", "it hangs") == 2


def test_past_the_budget_the_story_is_told():
    clock = Clock()
    budget = Budget(RecoverySection(restarts=2), clock)
    for who in ("engine 0", "reward replica 1"):
        budget.spend(who, f"{who} died")
        clock.now += 30
    with pytest.raises(RunError) as error:
        budget.spend("policy rank 1", "it hangs")
    assert str(error.value).splitlines() == [
        "2 restarts within 60 minutes did not help (recovery.restarts). What failed, the newest last:",
        "  60 s ago: engine 0 failed: engine 0 died", "  30 s ago: reward replica 1 failed: reward replica 1 died",
        "  0 s ago: policy rank 1 failed: it hangs",
    ]


def test_no_restart_is_a_budget_too():
    with pytest.raises(RunError, match="0 restarts"):
        Budget(RecoverySection(restarts=0), Clock()).spend("engine 0", "it died")
