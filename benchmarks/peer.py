"""A contender in a process of its own, asked over pipes for one block after another; between blocks it takes no time.

The child is `python -m benchmarks.peers.NAME`, which calls `serve`. What it prints goes to a file, shown if it fails.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from scale_rlhf.cluster.processes import end

ROOT = Path(__file__).resolve().parents[1]
CLOSING = 60.0  # seconds for a child to end its own processes
SHOWN = 3000  # characters of a failed child's output


class PeerError(RuntimeError):
    """A contender failed, or was late."""


class Peer:
    """Context manager. `setup` is what the child's `serve` is given first; its answer is `ready`."""

    def __init__(
        self, module: str, setup: dict[str, Any], *, threads: int, seconds: float = 600.0, cores: set[int] | None = None,
    ):
        """module: in benchmarks.peers. threads: OMP_NUM_THREADS. seconds: deadline of every answer. cores: pinned to these."""
        self.module, self.seconds = module, seconds
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the peer
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.peers.{module}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            env=environment, cwd=ROOT, text=True, preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        )
        try:
            self.ready = self.ask("setup", **setup)
        except BaseException:
            self.close()
            raise

    def ask(self, what: str, **arguments: Any) -> Any:
        """Have the child do `what`, and wait for its answer. Raises PeerError with the end of its output."""
        self.process.stdin.write(json.dumps({"what": what, "arguments": arguments}) + "\n")
        self.process.stdin.flush()
        readable, _, _ = select.select([self.process.stdout], [], [], self.seconds)
        if not readable:
            raise PeerError(f"{self.module}: no answer to {what} within {self.seconds:g} s\n{self._output()}")
        line = self.process.stdout.readline()
        if not line:
            raise PeerError(f"{self.module} ended during {what}\n{self._output()}")
        answer = json.loads(line)
        if "failed" in answer:
            raise PeerError(f"{self.module}: {what} failed\n{answer['failed']}\n{self._output()}")
        return answer["result"]

    def close(self) -> None:
        """Ask it to end; end it, and all under it, if it does not."""
        below = self._below()
        try:
            self.process.stdin.close()
            self.process.wait(CLOSING)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait(10.0)
        end(below, grace_seconds=2.0)
        self.log.close()

    def _below(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:  # it has ended
            return []

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def _output(self) -> str:
        self.log.seek(0)
        return self.log.read()[-SHOWN:]


def serve(make: Callable[..., Any]) -> None:
    """The child's side. make(**setup): an object whose methods are asked for by name; it may have `ready` and `close`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not be read as an answer
    served = None
    try:
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                if asked["what"] == "setup":
                    served = make(**asked["arguments"])
                    result = getattr(served, "ready", None)
                else:
                    result = getattr(served, asked["what"])(**asked["arguments"])
                answer = {"result": result}
            except Exception:  # noqa: BLE001 - told to the parent, whatever it is
                answer = {"failed": traceback.format_exc()}
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        if hasattr(served, "close"):
            served.close()
