"""Health of the members of a fleet: who serves, who is being looked at, who is gone, who comes back. Pure: no Ray, no clock
of its own, no waiting.

    healthy ──late──► suspect ──answered──► healthy
       │                 │ died, or still silent
       └─────died────────┴──► dead ──restart──► restarting ──started──► stale ──loaded──► healthy
                               ▲                     │ died                │ died
                               └─────────────────────┴─────────────────────┘

A stale member runs and serves nothing: it has not the weights that the others have. A fleet whose weights never change goes
from restarting to healthy at once.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from scale_rlhf.config.schema import RecoverySection
from scale_rlhf.errors import RunError


class State(StrEnum):
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    DEAD = "dead"
    RESTARTING = "restarting"
    STALE = "stale"


_ALLOWED = {
    "late": ({State.HEALTHY}, State.SUSPECT),
    "answered": ({State.SUSPECT}, State.HEALTHY),
    "died": ({State.HEALTHY, State.SUSPECT, State.RESTARTING, State.STALE}, State.DEAD),
    "restart": ({State.DEAD}, State.RESTARTING),
    "started": ({State.RESTARTING}, State.STALE),
    "loaded": ({State.STALE}, State.HEALTHY),
}


@dataclass(frozen=True)
class Event:
    """What happened to a member, when (seconds of the clock), and what is known of it."""

    at: float
    who: str
    what: str
    why: str = ""


@dataclass
class Budget:
    """Restarts that a run may still make: at most `recovery.restarts` within `recovery.window_minutes`, each later than the
    one before it. One for the whole run.
    """

    section: RecoverySection
    clock: Callable[[], float]
    tell: Callable[[str], None] = lambda line: None  # whoever watches the run
    keep: Callable[[str, str], None] = lambda who, why: None  # of every failure
    story: list[Event] = field(default_factory=list)  # everything that went wrong since the run began
    _restarts: deque[float] = field(default_factory=deque)

    def spend(self, who: str, why: str) -> float:
        """One more failure. Returns the seconds to wait before the restart; RunError, with the story, where none is left."""
        now = self.clock()
        self.note(who, why)
        while self._restarts and now - self._restarts[0] > 60 * self.section.window_minutes:
            self._restarts.popleft()
        if len(self._restarts) >= self.section.restarts:
            raise RunError(self._told(now))
        self._restarts.append(now)
        pause = min(self.section.backoff_seconds * 2 ** (len(self._restarts) - 1), self.section.backoff_limit_seconds)
        self.tell(f"{why}\n  {who} starts again in {pause:g} s (restart {len(self._restarts)} of {self.section.restarts})")
        return pause

    def note(self, who: str, why: str) -> None:
        """A failure that costs no restart."""
        self.story.append(Event(self.clock(), who, "failed", why))
        self.keep(who, why)

    def _told(self, now: float) -> str:
        lines = [f"  {now - event.at:.0f} s ago: {event.who} {event.what}: {event.why}" for event in self.story[-8:]]
        return (f"{len(self._restarts)} restarts within {self.section.window_minutes:g} minutes did not help "
                "(recovery.restarts). What failed, the newest last:\n" + "\n".join(lines))


class Health:
    """The states of `names`. stale: whether a restarted member must first load what the others have."""

    def __init__(self, names: list[str], clock: Callable[[], float], *, stale: bool):
        self.names, self.clock, self.goes_stale = names, clock, stale
        self.states = [State.HEALTHY] * len(names)
        self.since = [clock()] * len(names)

    def tell(self, place: int, what: str) -> bool:
        """Something happened: late, answered, died, restart, started or loaded. False where that is no news, as when a second
        call finds out that a member has died.
        """
        before, after = _ALLOWED[what]
        if self.states[place] not in before:
            return False
        if what == "started" and not self.goes_stale:
            after = State.HEALTHY
        self.states[place], self.since[place] = after, self.clock()
        return True

    def serves(self, place: int) -> bool:
        """Whether it may be given work, and has what it needs for it. A suspect is given no more, and may end what it has."""
        return self.states[place] == State.HEALTHY

    @property
    def serving(self) -> list[int]:
        return [place for place in range(len(self.names)) if self.serves(place)]
