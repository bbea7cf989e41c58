"""Ray's job server, asked over HTTP: the runs that a cluster has, in words of ours. Nothing waits longer than its deadline."""

import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from scale_rlhf.errors import RunError
from scale_rlhf.launching.token import ray_token
from scale_rlhf.redaction import without_secrets

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
RUN_KEY, CONFIG_KEY = "scale_rlhf_run", "scale_rlhf_config"  # in a job's metadata
ANSWER = 60.0  # seconds for one request
FIRST = 10.0  # seconds for the first
AGENT = 90.0  # seconds for Ray's agents, which start jobs, to come up after the dashboard
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_OURS = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # Ray takes them before any address that it is given


@dataclass(frozen=True)
class Job:
    """One of a cluster's jobs. run: name of the run. began, ended: seconds since the epoch. exit: status of the run's process."""

    id: str
    run: str
    state: str  # PENDING, RUNNING, or one of ENDED
    began: float | None
    ended: float | None
    exit: int | None
    message: str

    @property
    def is_over(self) -> bool:
        return self.state in ENDED


class JobServer:
    """Of the cluster whose dashboard is at `address`. Every method raises RunError where it does not answer as it should."""

    def __init__(self, address: str | None = None):
        self.address = check_address(address)
        self._client = self._ask(_client, self.address)

    def submit(self, **wanted: Any) -> str:
        """As ray.job_submission.JobSubmissionClient.submit_job; returns the job's id. Waits for a cluster that has just begun."""
        until = time.monotonic() + AGENT
        while True:
            try:
                return self._ask(self._client.submit_job, **wanted)
            except RunError as error:
                if "No available agent" not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(1.0)

    def jobs(self) -> list[Job]:
        """Those that were handed in here, ours or not, the newest first."""
        listed = [_job(details) for details in self._ask(self._client.list_jobs) if details.submission_id]
        return sorted(listed, key=lambda job: job.began or time.time(), reverse=True)

    def find(self, name: str) -> Job:
        """The job of that id, else the newest of that run."""
        jobs = self.jobs()
        found = next((job for job in jobs if job.id == name), None) or next((job for job in jobs if job.run == name), None)
        if found is None:
            there = ", ".join(dict.fromkeys(job.run or job.id for job in jobs[:10]))
            raise RunError(f"{self.address} has no run and no job {name}; it has {there or 'none at all'}")
        return found

    def job(self, id: str) -> Job:
        """As it is now."""
        return _job(self._ask(self._client.get_job_info, id))

    def log(self, id: str) -> str:
        """All that the run has said."""
        return self._ask(self._client.get_job_logs, id)

    async def tail(self, id: str) -> AsyncIterator[str]:
        """Pieces of the log from its beginning, as they come."""
        import aiohttp

        try:
            async for piece in self._client.tail_job_logs(id):
                yield piece
        except (aiohttp.ClientError, RuntimeError, OSError) as error:
            raise RunError(f"{self.address}: {_first_line(error)}") from error

    def stop(self, id: str) -> None:
        """Asks the run to end."""
        self._ask(self._client.stop_job, id)

    def _ask(self, call, *words: Any, **named: Any) -> Any:
        """Ray's errors, and those of requests, as one of ours."""
        try:
            return call(*words, **named)
        except (RuntimeError, OSError, ValueError) as error:  # those of requests are OSErrors
            raise RunError(f"{self.address}: {_first_line(error)}") from error
        except Exception as error:
            if type(error).__name__ != "AuthenticationError":
                raise
            raise RunError(_refused(self.address)) from error


def check_address(address: str | None) -> str:
    """The dashboard's address as given, or as Ray's variables have it; RunError where nobody answers there."""
    known = (os.environ.get(name, "") for name in _OURS)
    address = address or next((one for one in known if one.startswith("http")), DEFAULT_ADDRESS)
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RunError(f"--address: expected that of the cluster's dashboard, such as http://HEAD:8265; found {address}")
    address = address.rstrip("/")
    status = _status(address)
    if status in (401, 403):
        _use_token(address)
    elif status != 200:
        raise RunError(f"{address} answers {status}: no dashboard of Ray. Expected the address of the cluster's dashboard, such "
                       "as http://HEAD:8265 (the port that `ray start --head` names)")
    return address


def _status(address: str) -> int:
    """What its job server answers to who shows no token: a token is shown to none that does not ask."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    try:
        with opener.open(f"{address}/api/jobs/", timeout=FIRST) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        raise RunError(
            f"{address}: nobody answers there ({why}). Expected the address of the cluster's dashboard, such as "
            "http://HEAD:8265. See that the head runs (ray start --head), and that its port can be reached: it listens on the "
            "head alone unless it was started with --dashboard-host. Safest is a tunnel: ssh -L 8265:127.0.0.1:8265 HEAD, and "
            "--address http://127.0.0.1:8265"
        ) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _use_token(address: str) -> None:
    """The cluster wants a token: Ray's client shows it where RAY_AUTH_MODE says so, which is read when Ray is imported."""
    if ray_token() is None:
        raise RunError(_refused(address))
    os.environ["RAY_AUTH_MODE"] = "token"


def _refused(address: str) -> str:
    return (f"{address} asks for the cluster's token, and ours is missing or another. Take the head's ~/.ray/auth_token, "
            "give it mode 600 here, and name the file in RAY_AUTH_TOKEN_PATH")


def _client(address: str) -> Any:
    for name in _OURS:
        os.environ.pop(name, None)
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)  # they tell of every package

    class Client(JobSubmissionClient):
        def _do_request(self, *words: Any, **named: Any) -> Any:
            """Ray's own waits for ever."""
            return super()._do_request(*words, timeout=ANSWER, **named)

    return Client(address)


def _job(details: Any) -> Job:
    metadata = details.metadata or {}
    return Job(
        details.submission_id, metadata.get(RUN_KEY, ""), str(getattr(details.status, "value", details.status)),
        details.start_time and details.start_time / 1e3, details.end_time and details.end_time / 1e3,
        details.driver_exit_code, without_secrets(details.message or ""),
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else type(error).__name__
