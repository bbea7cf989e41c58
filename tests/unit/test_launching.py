"""A run as a job of a cluster, without the cluster: what is sent, what a log says, how it is followed, which messages."""

import shlex
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from scale_rlhf.cli import app
from scale_rlhf.config.load import load_config
from scale_rlhf.errors import ConfigError, RunError
from scale_rlhf.launching import following, jobs, status
from scale_rlhf.launching.following import exit_status, follow
from scale_rlhf.launching.jobs import Job, JobServer, check_address
from scale_rlhf.launching.run_log import Progress, progress
from scale_rlhf.launching.submitting import hand_in, new_run, resumed
from scale_rlhf.orchestration.run_folder import RunFolder

LOG = """Running entrypoint for job toy-1: exec scale-rlhf run scale-rlhf-run.yaml cluster.address=auto
toy: base, ppo in /shared/runs/toy-2
  note: reward.workers has no effect
base ───────────────────────────────────────────────────────────────────────────
base 0/10
base 10/10, 0:12 gone, loss 2.153
ppo ────────────────────────────────────────────────────────────────────────────
ppo 0/30
ppo 12/30, 0:40 gone, about 1:00 left, reward 0.51
"""


# --- what is sent ---------------------------------------------------------------------------------------------------------

@pytest.fixture
def server():
    sent = []

    def submit(**wanted):
        sent.append(wanted)
        return wanted["submission_id"]

    return SimpleNamespace(address="http://h:8265", submit=submit, sent=sent)


def yaml_file(folder, text="data: {practice: {}}\nreward: {function: 'brevity:reward'}\nvalue: {initial: policy}"):
    (folder / "toy.yaml").write_text(f"run: {{name: toy, stages: [base, ppo]}}\n{text}\n")
    (folder / "brevity.py").write_text("def reward(samples):\n    return [0.0] * len(samples)\n")
    return folder / "toy.yaml"


def test_a_new_run(tmp_path, monkeypatch, server):
    monkeypatch.chdir(tmp_path)
    seen = {}
    submit = server.submit

    def look(**wanted):
        from pathlib import Path

        folder = Path(wanted["runtime_env"]["working_dir"])
        seen.update({path.name: path.read_text() for path in folder.iterdir()})
        return submit(**wanted)

    server.submit = look
    wanted = new_run(yaml_file(tmp_path), ["run.folder=/shared/runs", "ppo.steps=7"])
    id = hand_in(server, wanted)
    (job,) = server.sent
    assert id.startswith("toy-") and job["submission_id"] == id
    assert job["entrypoint"] == "exec scale-rlhf run scale-rlhf-run.yaml cluster.address=auto"
    assert job["metadata"]["scale_rlhf_run"] == "toy" and "steps: 7" in job["metadata"]["scale_rlhf_config"]
    assert job["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "120"}
    assert seen.keys() == {"scale-rlhf-run.yaml", "brevity.py", "toy.yaml"}
    (tmp_path / "again.yaml").write_text(seen["scale-rlhf-run.yaml"])
    config = load_config(tmp_path / "again.yaml")
    assert (config.ppo.steps, config.run.folder, config.cluster.address) == (7, "/shared/runs", "auto")


def test_what_is_wrong_is_found_before_anything_is_sent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="run.folder: runs is a path of this machine"):
        new_run(yaml_file(tmp_path))
    with pytest.raises(ConfigError, match="overlap.correction: truncated needs"):
        new_run(yaml_file(tmp_path), ["run.folder=/shared/runs", "overlap.correction=truncated"])
    with pytest.raises(RunError, match="--code: there is no folder"):
        new_run(yaml_file(tmp_path), ["run.folder=/shared/runs"], tmp_path / "nowhere")


def test_resume_of_a_run_that_is_seen_here(tmp_path, monkeypatch, server):
    monkeypatch.chdir(tmp_path)
    config = load_config(yaml_file(tmp_path), [f"run.folder={tmp_path}"])
    folder = RunFolder.create(config, ["base", "ppo"])
    wanted = resumed(str(folder.path), ["ppo.steps=9"])
    assert wanted.entrypoint == f"exec scale-rlhf resume {folder.path} ppo.steps=9 cluster.address=auto"
    assert (wanted.run, wanted.code) == ("toy", tmp_path)
    hand_in(server, wanted)
    for stage in ("base", "ppo"):
        folder.set_stage(stage, "done")
    with pytest.raises(RunError, match="all stages of this run are done"):
        resumed(str(folder.path))


def test_resume_of_a_run_that_is_not_seen_here(tmp_path, server):
    wanted = resumed("/shared/runs/toy-2", code=tmp_path)
    assert wanted.run == "toy-2" and wanted.code == tmp_path and "not seen from this machine" in wanted.notes[0]
    assert "--code" in resumed("/shared/runs/toy-2").notes[1]
    assert hand_in(server, wanted).startswith("toy-2-")
    with pytest.raises(RunError, match="expected the absolute path"):
        resumed("runs/toy")


def test_words_of_the_command_are_quoted():
    wanted = resumed("/shared/my runs/x", ["rollout.stop=[';rm']"])
    words = ["exec", "scale-rlhf", "resume", "/shared/my runs/x", "rollout.stop=[';rm']", "cluster.address=auto"]
    assert shlex.split(wanted.entrypoint) == words


# --- what a log says ------------------------------------------------------------------------------------------------------

def test_progress():
    last = "ppo 12/30, 0:40 gone, about 1:00 left, reward 0.51"
    assert progress(LOG) == Progress("/shared/runs/toy-2", "ppo", last, last)
    early = progress("\n".join(LOG.splitlines()[:4]))
    assert (early.stage, early.step) == ("base", None)
    assert progress("") == Progress()
    assert progress(LOG + "evaluate ─────\nevaluate: scores 3/8\nstopped\n") == Progress(
        "/shared/runs/toy-2", "evaluate", "evaluate: scores 3/8", "stopped")


def job(state="RUNNING", **other) -> Job:
    return Job(**{"id": "toy-1", "run": "toy", "state": state, "began": 1e9, "ended": None, "exit": None, "message": ""} | other)


def test_status_lines():
    said = "\n".join(status.lines(job(), progress(LOG), [job("FAILED", id="toy-0")]))
    for words in ("running since 2001-09-", "stage      ppo", "step       ppo 12/30", "folder     /shared/runs/toy-2",
                  "before     toy-0 (failed)"):
        assert words in said, said
    over = status.lines(job("FAILED", ended=1e9 + 3725, exit=2), Progress())
    assert "failed with exit status 2 since" in over[2] and over[2].endswith("after 1 h 2 min")


# --- following ------------------------------------------------------------------------------------------------------------

class Server:
    """Tails the log from its beginning each time; `cuts`: where each connection breaks."""

    address = "http://h:8265"

    def __init__(self, states, cuts, full=LOG):
        self.states, self.cuts, self.full = list(states), list(cuts), full

    async def tail(self, id):
        cut = self.cuts.pop(0) if self.cuts else len(self.full)
        for begin in range(0, cut, 50):
            yield self.full[begin : min(begin + 50, cut)]
        if cut < len(self.full):
            raise RunError("connection reset")

    def job(self, id):
        return self.states.pop(0)

    def log(self, id):
        return self.full


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(following, "PAUSE", 0.0)


def test_each_line_is_shown_once_however_often_the_connection_breaks(quick):
    shown, told = [], []
    code = follow(Server([job("SUCCEEDED", exit=0)], [70, 0, 333]), job(), shown.append, told.append)
    assert code == 0 and "".join(shown) == LOG
    assert len(told) == 1 and "connection reset" in told[0]


def test_a_connection_that_stays_lost(quick, monkeypatch):
    monkeypatch.setattr(following, "LOST", -1.0)
    with pytest.raises(RunError, match=r"The run goes on. See it again with: scale-rlhf logs toy-1 --address http://h:8265"):
        follow(Server([], [10]), job(), lambda text: None, lambda line: None)


def test_a_connection_that_is_silent_is_made_again(quick, monkeypatch):
    import asyncio

    monkeypatch.setattr(following, "SILENCE", 0.05)
    server, shown = Server([job(), job("SUCCEEDED")], []), []
    calls = []

    async def tail(id):
        calls.append(id)
        yield LOG[:100] if len(calls) == 1 else LOG
        if len(calls) == 1:
            await asyncio.sleep(60)  # a laptop that slept: nothing comes, and nothing ends

    server.tail = tail
    assert follow(server, job(), shown.append, print) == 0
    assert "".join(shown) == LOG and len(calls) == 2


@pytest.mark.parametrize("ended, code, hint", [
    (job("SUCCEEDED", exit=0), 0, ""), (job("STOPPED"), 130, ""), (job("FAILED", exit=2), 2, ""),
    (job("FAILED", exit=127), 127, "does not find the command scale-rlhf"),
    (job("FAILED", message="The runtime_env failed to be set up"), 1, "runtime_env failed"),
])
def test_exit_status(ended, code, hint):
    told = []
    assert exit_status(ended, told.append) == code and hint in "".join(told)


def test_stop_waits_for_the_end(quick):
    server, told, stopped = Server([job(), job("STOPPED")], []), [], []
    server.stop = stopped.append
    following.stop(server, job(), 60, told.append)
    assert stopped == ["toy-1"]
    assert told[-1] == "stopped; go on with: scale-rlhf submit --resume /shared/runs/toy-2 --address http://h:8265"
    following.stop(server, job("FAILED"), 60, told.append)
    assert told[-1] == "toy-1 is over already: failed" and stopped == ["toy-1"]


# --- addresses and tokens -------------------------------------------------------------------------------------------------

class Handler(BaseHTTPRequestHandler):
    """Answers what the server's `answer` says, and keeps what it was shown."""

    def do_GET(self):
        self.server.shown.append(self.headers.get("Authorization"))
        status, body = self.server.answer(self.path, self.headers.get("Authorization"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def dashboard(monkeypatch, tmp_path):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.shown, server.url = [], f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("command", [("status", "toy"), ("status",), ("logs", "toy"), ("stop", "toy")])
def test_nobody_answers(command):
    done = call(*command, "--address", "http://127.0.0.1:9")
    assert done.exit_code == 2 and done.stderr.startswith("scale-rlhf: http://127.0.0.1:9: nobody answers there")
    assert "http://HEAD:8265" in done.stderr and "Traceback" not in done.output + done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "auto", "ray://h:10001", "http://"])
def test_an_address_of_another_kind(address):
    done = call("status", "--address", address)
    assert done.exit_code == 2 and "expected that of the cluster's dashboard, such as http://HEAD:8265" in done.stderr


def test_another_web_server(dashboard):
    dashboard.answer = lambda path, token: (404, b"")
    with pytest.raises(RunError, match="answers 404: no dashboard of Ray"):
        check_address(dashboard.url)


def test_a_cluster_that_asks_for_no_token_is_shown_none(dashboard, tmp_path):
    (tmp_path / "token").write_text("f" * 64)
    dashboard.answer = lambda path, token: (200, b"[]")
    assert check_address(dashboard.url + "/") == dashboard.url
    assert dashboard.shown == [None]


def test_a_token_that_is_missing(dashboard):
    dashboard.answer = lambda path, token: (401, b"Unauthorized")
    with pytest.raises(RunError, match="asks for the cluster's token, and ours is missing or another.*RAY_AUTH_TOKEN_PATH"):
        check_address(dashboard.url)


def test_the_addresses_of_variables(dashboard, monkeypatch):
    dashboard.answer = lambda path, token: (200, b"[]")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", dashboard.url)
    assert check_address(None) == dashboard.url


class Client:
    """What JobServer asks of Ray's."""

    def __init__(self, *details):
        self.details = details

    def list_jobs(self):
        return self.details


def details(id, run, began, status="RUNNING"):
    return SimpleNamespace(submission_id=id, metadata={"scale_rlhf_run": run}, status=status, start_time=began, end_time=None,
                           driver_exit_code=None, message="with https://me:pass-w0rd@host")


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(jobs, "check_address", lambda address: address)
    monkeypatch.setattr(jobs, "_client", lambda address: Client(
        details("toy-1", "toy", 1000), details("toy-2", "toy", 2000), details(None, "", 3000), details("other-1", "other", 4000)))
    return JobServer("http://h:8265")


def test_a_run_is_found_by_name_and_by_job(known):
    assert known.find("toy").id == "toy-2"  # the newest
    assert known.find("toy-1").id == "toy-1" and known.find("toy-1").began == 1.0
    assert "pass-w0rd" not in known.find("toy").message
    with pytest.raises(RunError, match="has no run and no job tou; it has other, toy"):
        known.find("tou")


def test_errors_of_the_job_server_are_messages(known):
    def fail():
        raise RuntimeError("Request failed with status code 500: Traceback\n  File x")

    known._client.list_jobs = fail
    with pytest.raises(RunError, match=r"^http://h:8265: Request failed with status code 500: Traceback$"):
        known.jobs()


def test_the_commands_are_in_the_list():
    for command in ("submit", "status", "logs", "stop", "doctor"):
        done = call(command, "--help")
        assert done.exit_code == 0 and "Usage" in done.stdout
