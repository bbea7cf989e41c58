"""Runs a program that a model wrote, in a process that can do nothing but compute. docs/security.md says what that promises.

Each program has a fresh interpreter (in_sandbox.py): limits on processor time, memory and files, no further process or thread,
no network, nothing of the machine's files that it could change, and an empty folder in memory. At the deadline it is killed.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from scale_rlhf.errors import ConfigError

INSIDE = Path(__file__).with_name("in_sandbox.py")
GRACE = 5.0  # seconds beyond the deadline, for the interpreter to begin and end
LARGEST_OUTPUT = 1_000_000  # bytes


@dataclass(frozen=True)
class Limits:
    """seconds: of processor time; deadline: of time, for a program that sleeps. isolated: cut off from network, files and
    other processes by namespaces; without them a program is what the user is, but for its limits.
    """

    seconds: int = 5
    deadline: float = 15.0
    memory_mb: int = 512
    file_mb: int = 16
    isolated: bool = True


@dataclass(frozen=True)
class Outcome:
    """passed: which of the tests did. output: what it wrote to its standard output. ended: it came to its end by itself."""

    passed: list[bool]
    output: str
    ended: bool


def run(program: str, limits: Limits, *, tests: list[str] | None = None, given: str = "") -> Outcome:
    """Run a program, then each of `tests` in its names; a test passes that raises nothing. given: on its standard input.

    Whether a test passed is told with a number that only this call knows. Raises ConfigError where the kernel refuses to
    cut it off, and `limits.isolated` asks for it.
    """
    token = secrets.token_hex(16)
    job = {"program": program, "tests": tests or [], "given": given, "token": token, **asdict(limits)}
    with tempfile.TemporaryDirectory(prefix="scale-rlhf-sandbox-") as folder, tempfile.TemporaryFile() as written:
        read, write = os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(INSIDE), str(write)], cwd=folder, env={"LANG": "C.UTF-8"},
                pass_fds=(write,), stdin=subprocess.PIPE, stdout=written, stderr=subprocess.DEVNULL,
                start_new_session=True)
        finally:
            os.close(write)
        with os.fdopen(read, "rb") as told:
            _finish(process, json.dumps(job).encode(), limits.deadline + GRACE)
            os.set_blocking(told.fileno(), False)
            said = (told.read(LARGEST_OUTPUT) or b"").decode(errors="replace").split("\n")
        written.seek(0)
        output = written.read(LARGEST_OUTPUT)
    if refused := [line for line in said if line.startswith(f"{token} refused ")]:
        raise ConfigError(_refusal(refused[0].split(" ", 2)[2]))
    passed = [f"{token} passed {number}" in said for number in range(len(tests or []))]
    return Outcome(passed, output.decode(errors="replace"), f"{token} ended" in said)


def _finish(process: subprocess.Popen, job: bytes, seconds: float) -> None:
    """Hand the job over, wait, and end the whole process group, whatever happened."""
    try:
        process.communicate(job, timeout=seconds)
    except (subprocess.TimeoutExpired, BrokenPipeError):
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _refusal(why: str) -> str:
    return ("unit_tests:passed: a program that a model wrote shall run without network and with nothing that it could "
            f"change, and this kernel or container does not allow that ({why}). Allow unprivileged user namespaces and "
            "seccomp there (Docker: --security-opt seccomp=unconfined, or a profile with unshare and mount), or, on a machine "
            "that you can lose, set isolated: false in reward.arguments: limits on time, memory and processes then stay")
