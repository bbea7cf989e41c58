"""A run's log on this terminal, while it runs elsewhere: a connection that is lost is made again, Ctrl-C lets go of it alone."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from scale_rlhf.errors import RunError
from scale_rlhf.launching.jobs import Job, JobServer
from scale_rlhf.launching.run_log import progress

LOST = 300.0  # seconds without a connection before we give up; the run goes on
PAUSE = 2.0
SILENCE = 60.0  # seconds without a line before the connection is taken for dead, and made again
STOPPED, NOT_FOUND = 130, 127  # exit statuses: ended by a signal that asks; no such command


def follow(server: JobServer, job: Job, write: Callable[[str], None], tell: Callable[[str], None]) -> int:
    """Writes the log to its end; returns the run's exit status. tell: takes lines of ours.

    Raises KeyboardInterrupt on Ctrl-C, RunError where the cluster has not been reached for LOST seconds: either way the run
    goes on.
    """
    log, heard, lost = _Log(write), time.monotonic(), False
    while True:
        try:
            asyncio.run(log.read(server, job.id))
            job, heard, lost = server.job(job.id), time.monotonic(), False
        except RunError as error:
            if time.monotonic() - heard > LOST:
                raise RunError(f"{error}. The run goes on. {come_back(job, server.address)}") from error
            if not lost:
                tell(f"the connection is lost, and tried again: {error}")
            lost = True
        if job.is_over:
            with suppress(RunError):  # of a job that never began there is none
                log.add(server.log(job.id))
            return exit_status(job, tell)
        time.sleep(PAUSE)


def exit_status(job: Job, tell: Callable[[str], None]) -> int:
    """Of a job that is over: that of the run's own process, 130 where it was stopped, 1 where it never began."""
    if job.state == "SUCCEEDED":
        return 0
    if job.state == "STOPPED":
        return STOPPED
    if job.exit == NOT_FOUND:
        tell("the cluster's head does not find the command scale-rlhf: install this version there, and start Ray with the "
             "environment's bin folder on PATH")
    if job.exit is None:
        tell(f"the job failed: {job.message.strip()[-2000:]}")
    return job.exit or 1


def come_back(job: Job, address: str) -> str:
    """How to see the run again."""
    return f"See it again with: scale-rlhf logs {job.id} --address {address}"


def stop(server: JobServer, job: Job, seconds: float, tell: Callable[[str], None]) -> int:
    """Asks the run to end as Ctrl-C does, and waits for it; 0 where it has ended. tell: takes lines."""
    if job.is_over:
        tell(f"{job.id} is over already: {job.state.lower()}")
        return 0
    server.stop(job.id)
    tell(f"asked {job.id} to stop; what is left of it after {seconds:g} s is killed")
    until = time.monotonic() + seconds + 30
    while not (job := server.job(job.id)).is_over:
        if time.monotonic() > until:
            raise RunError(f"{job.id} has not ended within {seconds + 30:g} s. {come_back(job, server.address)}")
        time.sleep(PAUSE / 4)
    folder = progress(server.log(job.id)).folder
    resume = f"; go on with: scale-rlhf submit --resume {folder} --address {server.address}" if folder else ""
    tell(job.state.lower() + resume)
    return 0


class _Log:
    """Writes each character once, however often the log is read from its beginning."""

    def __init__(self, write: Callable[[str], None]):
        self._write, self._written, self._seen = write, 0, 0

    async def read(self, server: JobServer, id: str) -> None:
        """From its beginning until it ends, or is silent."""
        self._seen = 0
        pieces = server.tail(id)
        with suppress(StopAsyncIteration, TimeoutError):
            while True:
                self._take(await asyncio.wait_for(anext(pieces), SILENCE))

    def add(self, log: str) -> None:
        """The whole log, once more: what a connection lost at its end."""
        self._seen = 0
        self._take(log)

    def _take(self, piece: str) -> None:
        begin = max(0, self._written - self._seen)
        self._seen += len(piece)
        if begin < len(piece):
            self._write(piece[begin:])
            self._written = self._seen
