"""The controller may die as any process may: who started it starts it again, from the run's last checkpoint.

`scale-rlhf run` is two processes: this one, which waits and does nothing else, and the run. Where the run is killed by a signal
(the kernel out of memory, a fault in a library), what it left is ended and removed, and `scale-rlhf resume` goes on with it.
A run that ends by itself, well or with an error, has ended; so has one that was asked to.
"""

import ctypes
import json
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

FOLDER_FILE = "SCALE_RLHF_RUN_FOLDER_FILE"  # environment variable: where the run writes which folder is its own
RESTARTS, WINDOW = 5, 3600.0  # at most so many within so many seconds
_ASKED = (signal.SIGINT, signal.SIGTERM)
_PR_SET_CHILD_SUBREAPER = 36
_SENT_BY_A_PROCESS = 0  # si_code: the terminal's own Ctrl-C has reached the run already


def tell_folder(path: Path) -> None:
    """The run says which folder is its own, once it has one."""
    if place := os.environ.get(FOLDER_FILE):
        Path(place).write_text(str(path))


def supervise(command: list[str], again: Callable[[str], list[str]]) -> int:
    """Run `command` to its end, `again(folder)` where it was killed. Returns its exit status, as a shell gives it."""
    from scale_rlhf.cluster.processes import remove_shared_memory, remove_socket_folders, shared_memory_files

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what outlives the run becomes ours to end
    before, killed = shared_memory_files(), deque()
    with tempfile.TemporaryDirectory(prefix="scale-rlhf-") as place:
        file = Path(place) / "folder"
        while True:
            status, asked = _run(command, file)
            folder = file.read_text() if file.exists() else None
            if not os.WIFSIGNALED(status):
                return os.WEXITSTATUS(status)
            _end_the_rest()
            remove_shared_memory(before)
            remove_socket_folders()
            name = signal.Signals(os.WTERMSIG(status)).name
            if asked or folder is None or not _may_restart(killed):
                _say(f"the run was ended by {name}" + (f"; go on with: scale-rlhf resume {folder}" if folder else ""))
                return 128 + os.WTERMSIG(status)
            _note(Path(folder), f"the controller was ended by {name}")
            _say(f"the controller was ended by {name}; the run goes on from its last checkpoint "
                 f"(restart {len(killed)} of {RESTARTS})")
            command = again(folder)


def _run(command: list[str], file: Path) -> tuple[int, bool]:
    """(wait status, whether it was asked to end). Signals that processes send to us are for the run."""
    wanted = {signal.SIGCHLD, *_ASKED}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    try:
        # A signal that is asked for by its number must have a handler: an ignored one would never come.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        pid = os.posix_spawn(command[0], command, os.environ | {FOLDER_FILE: str(file)}, setsigmask=[])
        asked = False
        while True:
            info = signal.sigwaitinfo(wanted)
            if info.si_signo in _ASKED:
                asked = True
                if info.si_code == _SENT_BY_A_PROCESS:
                    os.kill(pid, info.si_signo)
            while True:
                try:
                    ended, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    break
                if ended == pid:
                    return status, asked
                if ended == 0:
                    break
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)


def _end_the_rest() -> None:
    """Ray's and vLLM's processes that the run has left: a new run wants their CPUs, GPUs and ports."""
    import psutil

    rest = psutil.Process().children(recursive=True)
    for process in rest:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(rest, timeout=10.0)


def _may_restart(killed: deque) -> bool:
    now = time.monotonic()
    killed.append(now)
    while now - killed[0] > WINDOW:
        killed.popleft()
    return len(killed) <= RESTARTS


def _note(folder: Path, why: str) -> None:
    """In the run's faults.jsonl: who failed last is asked of the folder."""
    with suppress(OSError), open(folder / "faults.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"at": time.time(), "who": "controller", "why": why}) + "\n")


def _say(line: str) -> None:
    print(f"scale-rlhf: {line}", file=sys.stderr, flush=True)
