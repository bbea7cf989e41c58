"""Programs that a model wrote: what they may do, and what they try. Each runs for real."""

import os
import socket
import time

import pytest

from scale_rlhf.errors import ConfigError
from scale_rlhf.reward.verifiable.sandbox import Limits, Outcome, run
from scale_rlhf.reward.verifiable.unit_tests import passed, program_of

LIMITS = Limits(seconds=1, deadline=2.0, memory_mb=256)
BARE = Limits(seconds=1, deadline=2.0, memory_mb=256, isolated=False)
ADD = "def add(a, b):\n    return a + b\n"


@pytest.fixture(scope="module", autouse=True)
def namespaces():
    try:
        run("", LIMITS)
    except ConfigError as error:
        pytest.skip(str(error))


def outcome(program: str, tests=("assert True",), limits: Limits = LIMITS) -> Outcome:
    return run(program, limits, tests=list(tests))


def said(program: str, limits: Limits = LIMITS) -> str:
    ended = run(program, limits)
    assert ended.ended, ended
    return ended.output


def test_each_test_is_told_apart():
    assert outcome(ADD, ["assert add(1, 2) == 3", "assert add(1, 1) == 3", "assert add(0, 0) == 0"]).passed == [True, False, True]


def test_input_and_output():
    assert run("print(sum(map(int, input().split())))", LIMITS, given="1 2").output == "3\n"
    long = run("import sys\nprint(len(sys.stdin.read()))\nsys.exit()", LIMITS, given="x" * 10**6)
    assert long == Outcome([], "1000000\n", True)


@pytest.mark.parametrize("program", [
    "import os; os._exit(0)", "import sys; sys.exit(0)", "raise SystemExit", "1 / 0", "def f(:",
    "import os\nfor fd in range(3, 32):\n  try: os.write(fd, b'passed 0\\n')\n  except OSError: pass\nos._exit(0)",
    "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()", "import ctypes; ctypes.string_at(0)",
], ids=lambda text: text[:24])
def test_leaving_before_the_tests_passes_none(program):
    assert outcome(program).passed == [False]


@pytest.mark.parametrize("program", [
    "while True: pass", "import time; time.sleep(60)", "x = bytearray(10**9)", "x = []\nwhile True: x.append(' ' * 10**6)",
    "while True: print('x' * 10000)",
    "import signal\nfor s in (15, 24): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
    "import os, time\ntry: os.setsid()\nexcept OSError: pass\ntime.sleep(60)", "open('a', 'w').write('x' * 10**8)",
], ids=lambda text: text[:24])
def test_limits_hold(program):
    limits = BARE if "setsid" in program else LIMITS  # namespaces would end it anyway
    began = time.monotonic()
    assert outcome(program, limits=limits).passed == [False]
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("limits", [LIMITS, BARE], ids=["isolated", "bare"])
def test_no_process_and_no_thread_and_no_signal(limits):
    tries = ("os.fork()", "os.posix_spawn('/bin/true', ['true'], {})", "threading.Thread(target=print).start()", "os.kill(-1, 9)",
             "os.killpg(0, 9)")
    for attempt in tries:
        assert said(f"import os, threading\ntry:\n  {attempt}\n  print('did')\nexcept Exception: print('no')", limits) == "no\n"


def test_no_network(free_port):
    connect = f"socket.create_connection(('127.0.0.1', {free_port}), 1)"
    program = f"import socket\ntry:\n  {connect}\n  print('did')\nexcept OSError: print('no')"
    socket.create_connection(("127.0.0.1", free_port), 1).close()  # the server is there
    assert said(program) == said(program, BARE) == "no\n"


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_nothing_that_is_there_can_be_changed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    home = os.path.expanduser("~/scale-rlhf-x")
    places = [str(victim), "/var/tmp/scale-rlhf-x", "/dev/shm/scale-rlhf-x", home, "/etc/hosts", "/dev/null"]
    program = f"import os\nfor place in {places!r}:\n"
    program += "  try:\n    open(place, 'a').write('x')\n    print(place)\n  except OSError: pass\n"
    program += f"try:\n  os.unlink({str(victim)!r})\nexcept OSError: pass\nopen('mine', 'w').write('x')\nprint(os.listdir('.'))"
    assert said(program) == "['mine']\n"
    assert victim.read_text() == "mine" and not any(os.path.exists(place) for place in places[1:4])


def test_no_secret_and_no_way_back_to_power(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    program = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print("HF_TOKEN" in os.environ, os.listdir("/proc"))
print(libc.unshare(0x10000000), libc.mount(None, b"/", None, 32, None), libc.ptrace(16, os.getppid(), 0, 0), os.getuid() == 0)
"""
    assert said(program) == "False []\n-1 -1 -1 False\n"


def test_no_process_and_no_folder_stay(tmp_path, monkeypatch):
    import psutil

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    outcome("import time; time.sleep(60)")
    assert list(tmp_path.iterdir()) == []
    assert [one for one in psutil.Process().children(recursive=True) if "in_sandbox" in " ".join(one.cmdline())] == []


def sample(response: str, tests) -> dict:
    return {"response": response, "row": {"tests": tests, "_at": "f.jsonl:2"}}


def test_scores():
    asserts = ["assert add(1, 2) == 3", "assert add(2, 2) == 5"]
    fenced = f"Here it is:\n```python\n{ADD}```\nDone."
    assert program_of(fenced) == ADD and program_of(ADD) == ADD
    both = [sample(fenced, asserts[:1]), sample(fenced, asserts), sample("no program", asserts)]
    assert passed(both, seconds=2) == [1.0, 0.0, 0.0]
    assert passed(both, seconds=2, share=True, at_once=2) == [1.0, 0.5, 0.0]
    pairs = [{"input": "1 2", "output": "3"}, {"input": "2 2", "output": "4\n"}]
    right, deceiver = "print(sum(map(int, input().split())))", "class All:\n  __eq__ = lambda *_: True\nprint(All())"
    three = [sample(program, pairs) for program in (right, deceiver, "print(3)")]
    assert passed(three, seconds=2, share=True) == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("tests", [[], [1], [{"input": "x"}], 7, {"a": 1}])
def test_rows_without_tests_are_a_configuration_error(tests):
    with pytest.raises(ConfigError, match="f.jsonl:2: unit_tests:passed needs in `tests` a list of Python statements"):
        passed([sample(ADD, tests)])
