"""A run that is killed is started again from its folder; one that ends by itself, or is asked to, is not."""

import os
import signal
import subprocess
import sys
import time

import pytest

SUPERVISOR = """
import sys
from scale_rlhf.orchestration import supervisor
supervisor.RESTARTS = 2
me = [sys.executable, "-c", sys.argv[1]]
sys.exit(supervisor.supervise([*me, "first", sys.argv[2]], lambda folder: [*me, "again", sys.argv[2], folder]))
"""
RUN = """
import os, signal, subprocess, sys, time
from pathlib import Path
from scale_rlhf.orchestration.supervisor import tell_folder
log = open(sys.argv[2], "a")
print(*sys.argv[1:2] + sys.argv[3:], file=log, flush=True)
"""
KILLED = 'tell_folder(Path("runs/a"))\nos.kill(os.getpid(), signal.SIGKILL)\n'


def supervised(body: str, log) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SUPERVISOR, RUN + body, str(log)], text=True, stderr=subprocess.PIPE)


@pytest.mark.parametrize("status", [0, 2])
def test_a_run_that_ends_by_itself_has_ended(tmp_path, status):
    process = supervised(f'tell_folder(Path("runs/a"))\nsys.exit({status})', tmp_path / "log")
    assert process.wait(60) == status
    assert (tmp_path / "log").read_text() == "first\n"


def test_a_killed_run_goes_on_and_what_it_left_is_ended(tmp_path):
    """The second one leaves a process that has a session of its own, and finds the first one's gone."""
    body = f"""
left = Path({str(tmp_path / "left")!r})
if sys.argv[1] == "first":
    left.write_text(str(subprocess.Popen(["sleep", "300"], start_new_session=True).pid))
    {KILLED.replace(chr(10), chr(10) + "    ")}
sys.exit(0 if not Path(f"/proc/{{left.read_text()}}").exists() else 5)
"""
    process = supervised(body, tmp_path / "log")
    assert process.wait(60) == 0, process.stderr.read()
    assert (tmp_path / "log").read_text() == "first\nagain runs/a\n"
    assert "the controller was ended by SIGKILL; the run goes on" in process.stderr.read()


def test_not_for_ever(tmp_path):
    process = supervised(KILLED, tmp_path / "log")
    assert process.wait(60) == 128 + signal.SIGKILL
    assert (tmp_path / "log").read_text() == "first\nagain runs/a\nagain runs/a\n"
    assert "go on with: scale-rlhf resume runs/a" in process.stderr.read()


def test_a_run_without_a_folder_is_not_started_again(tmp_path):
    process = supervised("os.kill(os.getpid(), signal.SIGSEGV)", tmp_path / "log")
    assert process.wait(60) == 128 + signal.SIGSEGV
    assert (tmp_path / "log").read_text() == "first\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_run_once(tmp_path, number):
    body = f"""
tell_folder(Path("runs/a"))
def seen(number, frame):
    os.write(log.fileno(), b"%d\\n" % number)  # not by print, which may be under way: "ready" is seen before it has returned
    time.sleep(0.5)
    sys.exit(130)
signal.signal({int(number)}, seen)
print("ready", file=log, flush=True)
time.sleep(60)
"""
    process = supervised(body, tmp_path / "log")
    while not (tmp_path / "log").exists() or "ready" not in (tmp_path / "log").read_text():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.kill(process.pid, number)
    assert process.wait(60) == 130
    assert (tmp_path / "log").read_text() == f"first\nready\n{int(number)}\n"
