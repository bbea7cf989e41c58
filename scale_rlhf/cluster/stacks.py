"""What a process that does not answer is doing: its state, and the stack of its Python code where py-spy can look into it."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from scale_rlhf.cluster.actors import Process, lives

_FRAMES = 6  # innermost, of the main thread


def look(processes: Sequence[Process], node: str) -> str:
    """A line or more about the first of `processes`, the actor's own, if it is on this node; "" where nothing can be had."""
    mine = [process for process in processes if process.node == node and lives(process)]
    if not mine:
        return ""
    pid = mine[0].pid
    try:
        state = psutil.Process(pid).status()
    except psutil.Error:
        return ""
    stopped = " (stopped by a signal: SIGCONT lets it go on)" if state == psutil.STATUS_STOPPED else ""
    frames = "".join(f"\n    {frame}" for frame in _main_thread(pid))
    return f"\n  pid {pid} is {state}{stopped}" + (f", in{frames}" if frames else "")


def _main_thread(pid: int) -> list[str]:
    spy = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if spy is None:
        return []
    try:
        dumped = subprocess.run([spy, "dump", "--nonblocking", "--pid", str(pid)], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    threads = dumped.stdout.split("\nThread ")  # the first part is the process itself
    main = next((thread for thread in threads[1:] if thread.startswith(f"{pid} ")), "")  # its number is the process's
    return [line.strip() for line in main.splitlines()[1:] if line.strip()][:_FRAMES]
