"""What actors are called, in Ray's dashboard, in the names of their calls, in log lines and in metrics.

    rollout/engine-7     an engine
    reference/0          a replica; reference/0.1 its second process, where it has several
    policy/3             a rank

Ray wants a name to be there once in a namespace. Each start of a run's roles has a namespace of its own, so that runs that
share a cluster do not meet, and an actor that takes the place of a dead one takes its name.
"""

import time
from contextlib import suppress
from typing import Any

from scale_rlhf.telemetry import process

_FREED = 2.0  # seconds for Ray to give the name of an actor that is killed to another
_LOOK = 0.02


def engine(number: int) -> str:
    return f"rollout/engine-{number}"


def replica(role: str, number: int, worker: int = 0, workers: int = 1) -> str:
    """A process of a replica, or the replica where that is one process."""
    return f"{role}/{number}" if workers == 1 else f"{role}/{number}.{worker}"


def rank(role: str, number: int) -> str:
    return f"{role}/{number}"


def start(kind: type, name: str, *arguments: Any, options: dict[str, Any], namespace: str | None = None, **named: Any) -> Any:
    """Start `kind(*arguments, **named)` as an actor that is called `name`. Returns its handle.

    options: Ray's. namespace: None, its calls and its lines are called so, but Ray cannot find it by that name.
    """
    import ray

    made = ray.remote(_introduced(kind, name))
    if namespace is not None:
        until = time.monotonic() + _FREED
        while True:
            try:
                return made.options(**options, name=name, namespace=namespace).remote(*arguments, **named)
            except ValueError as error:
                if "already" not in str(error):
                    raise
                if time.monotonic() > until:
                    break  # the name is for people: nothing fails for want of it
            # Ray learns late that a process has died. Whoever has the name is the one whose place this takes.
            with suppress(ValueError):
                ray.kill(ray.get_actor(name, namespace=namespace))
            time.sleep(_LOOK)
    return made.options(**options).remote(*arguments, **named)


def _introduced(kind: type, name: str) -> type:
    """The same class, whose process says who it is before anything else. Ray shows what `repr` gives."""

    class Introduced(kind):
        def __init__(self, *arguments: Any, **named: Any):
            process.begin(name)
            super().__init__(*arguments, **named)

        def __repr__(self) -> str:
            return name

    Introduced.__name__ = Introduced.__qualname__ = kind.__name__  # in the titles of processes
    Introduced.__doc__ = kind.__doc__
    return Introduced
