"""What is said of a process that does not answer; and that a process is ended for certain."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from scale_rlhf.cluster import actors
from scale_rlhf.cluster.actors import Process, lives
from scale_rlhf.cluster.stacks import look

CODE = "import time\ndef waits_for_ever():\n    time.sleep(300)\nprint('up', flush=True)\nwaits_for_ever()\n"


@pytest.fixture
def process():
    child = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "up\n"
    time.sleep(0.1)
    yield Process("here", child.pid, psutil.Process(child.pid).create_time())
    child.kill()
    child.wait()


def test_state_and_stack(process):
    said = look([process], "here")
    assert f"pid {process.pid} is sleeping" in said and "waits_for_ever" in said
    psutil.Process(process.pid).send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    said = look([process], "here")
    assert "is stopped (stopped by a signal: SIGCONT lets it go on)" in said and "waits_for_ever" in said


def test_nothing_is_said_of_what_is_elsewhere_or_gone(process):
    assert look([process], "another node") == ""
    assert look([Process("here", process.pid, 1.0)], "here") == ""  # that number is another's now
    assert look([], "here") == ""


def test_a_stopped_process_is_ended(process, monkeypatch):
    monkeypatch.setattr(actors, "_GRACE", 0.2)
    psutil.Process(process.pid).send_signal(signal.SIGSTOP)
    other = Process("here", process.pid, 1.0)
    actors._kill([other])
    assert lives(process)
    actors._kill([process])
    time.sleep(0.1)
    assert not lives(process)
