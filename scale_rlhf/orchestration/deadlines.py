"""The one way that anyone waits for a remote: with a deadline, and an error that says who is late, at what, for how long."""

import asyncio
import re
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from typing import Any

from scale_rlhf.cluster.actors import Process
from scale_rlhf.cluster.stacks import look
from scale_rlhf.errors import RunError, UserError

_DEATHS = ("ActorDiedError", "RayActorError", "ActorUnavailableError", "WorkerCrashedError")


class RoleFailed(RunError):
    """A process is late, died, or failed at what it was asked: another in its place may do it. Other errors are the user's."""

    def __init__(self, message: str, late: bool = False):
        super().__init__(message)
        self.late = late

    def __reduce__(self):
        return type(self), (self.args[0], self.late)

    def seen(self, processes: Sequence[Process]) -> "RoleFailed":
        """The same, with what those who are late are found to be doing."""
        import ray

        if not self.late or not ray.is_initialized():
            return self
        node = ray.get_runtime_context().get_node_id()
        return RoleFailed(self.args[0] + "".join(look([process], node) for process in processes[:4]), late=True)


async def within(awaitable: Awaitable | Any, seconds: float, who: str, what: str) -> Any:
    """The result of a coroutine, a future or a Ray object reference, if it comes within `seconds`.

    who, what: for the message, as in "policy rank 1", "update of version 7". Raises RunError when it is late, when
    the actor died, or when it failed there, as RoleFailed; an error meant for the user travels as it is.
    """
    try:
        async with asyncio.timeout(seconds):  # no task of its own, as wait_for has: there is one such wait a sample
            return await awaitable
    except TimeoutError as error:
        raise RoleFailed(f"{who}: {what} did not end within {seconds:g} s. Look at that process's log (it may wait for another "
                         "that died, or be slow); `limits` in the configuration has the deadlines", late=True) from error
    except asyncio.CancelledError:
        raise
    except Exception as error:
        raise _explained(error, who, what) from error


async def all_within(awaitables: Sequence[Awaitable | Any], seconds: float, who: str, what: str) -> list:
    """The results of one call on every rank of a group, in order; the first failure ends the wait, and names its rank."""
    tasks = [asyncio.ensure_future(within(a, seconds, f"{who} rank {rank}", what)) for rank, a in enumerate(awaitables)]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # retrieve every rank's error: none is left unread


async def at_once(work: Iterable[Coroutine]) -> list[Any]:
    """Their results, in order; the first failure ends the others and travels."""
    try:
        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(one) for one in work]
    except ExceptionGroup as failures:
        raise first_failure(failures) from None
    return [task.result() for task in made]


def first_failure(failures: BaseExceptionGroup) -> BaseException:
    """The error that ended a task group: the others follow from its cancelling the rest."""
    first = failures.exceptions[0]
    return first_failure(first) if isinstance(first, BaseExceptionGroup) else first


def _explained(error: Exception, who: str, what: str) -> UserError:
    """A Ray error carries the remote error inside; a user's error is handed on, any other says where it happened."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, UserError):
        return cause
    if isinstance(error, UserError):
        return error
    return RoleFailed(f"{who}: {what} failed: {_brief(error)}")


def _brief(error: Exception) -> str:
    """The error in a line or two: Ray's of a dead process has fifteen, and most of them advice."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):  # what was raised there; the error itself has the whole traceback
        return f"{type(cause).__name__}: {cause}"
    text = str(error)
    if type(error).__name__ not in _DEATHS:
        return f"{type(error).__name__}: {text}"
    process = re.search(r"^\s*pid: (\d+)", text, re.MULTILINE)
    if process is None or "creation task" in text:  # it never came up: the last lines say why
        return "its process died: " + " / ".join(line.strip() for line in text.strip().splitlines()[-3:])
    return f"its process died (pid {process[1]})"
