"""The promises of docs/security.md that need neither Ray nor vLLM; those that do are in tests/integration/test_security.py."""
# ruff: noqa: E501 - a case stays on one line

import ast
import io
import json
import os
import pickle
import re
import sys
import threading
import zipfile
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

import scale_rlhf
from scale_rlhf.cluster.device import environment
from scale_rlhf.config import model_files
from scale_rlhf.config.checks import check
from scale_rlhf.config.load import load_config
from scale_rlhf.config.schema import DataSource, RunConfig
from scale_rlhf.data import read
from scale_rlhf.errors import ConfigError, DataError, RunError, UserError
from scale_rlhf.models.loading import load_causal, load_scalar
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.redaction import printable, redacted, without_secrets
from scale_rlhf.telemetry.report import write_report
from tests.tiny import tiny_policy

PACKAGE = Path(scale_rlhf.__file__).parent
PASSWORD, TOKEN, KEY = "pass-w0rd!", "hf_AbCdEfGhIjKlMnOp0123456789", "k3y-of-the-service"
URL = f"https://me:{PASSWORD}@host:8000/score?api_key={KEY}&x=1"


# --- nothing runs that came as data ---------------------------------------------------------------------------------------

@cache
def calls() -> list[tuple[str, str, ast.Call]]:
    """(file, dotted name of what is called, call) of every call in the package."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        name = str(file.relative_to(PACKAGE))
        found += [(name, ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return found


def keyword(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(word.value) for word in call.keywords if word.arg == name), None)


def dangerous(name: str, call: ast.Call) -> str | None:
    """Why a call could run what it reads, or trust whom it should not."""
    last, words = name.rsplit(".", 1)[-1], {word.arg: ast.unparse(word.value) for word in call.keywords}
    if re.search(r"(^|\.)_?(c?pickle|cloudpickle|dill|joblib|marshal|shelve)\.(loads?|Unpickler|open)$", name):
        return "unpickles"
    if last in ("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list", "recv_object_list"):
        return "unpickles what other ranks send"
    if "resume_from_checkpoint" in words or last == "load_checkpoint":
        return "unpickles parts of a checkpoint"
    if name == "torch.load" and words.get("weights_only") != "True":
        return "unpickles"
    if last in ("read_pickle", "Unpickler", "unsafe_load", "full_load", "unsafe_load_all", "full_load_all"):
        return "unpickles, or makes objects of YAML"
    if name in ("yaml.load", "yaml.load_all") or (words.get("Loader", "yaml.SafeLoader") not in ("yaml.SafeLoader", "SafeLoader")):
        return "YAML by another loader than the safe one"
    if words.get("allow_pickle") not in (None, "False"):
        return "numpy arrays of objects are pickles"
    if name in ("eval", "exec", "compile", "os.system", "os.popen", "builtins.eval") or words.get("shell") not in (None, "False"):
        return "runs text"
    if words.get("verify") == "False" or words.get("trust_remote_code") == "True" or words.get("weights_only") == "False":
        return "trusts whom it should not"
    return None


# What may do so, and why: {(file, what is called): reason}
RANKS = "small values between the ranks of one run, over torch's own process group (docs/security.md says what that rests on)"
SANDBOX = "a program under test, in a process of its own that has locked itself in (reward/verifiable/sandbox.py); never imported"
ALLOWED: dict[tuple[str, str], str] = {
    ("training/worker.py", "distributed.all_gather_object"): RANKS,
    ("training/off_policy.py", "distributed.all_gather_object"): RANKS,
    ("training/held_out.py", "dist.all_gather_object"): RANKS,
    ("training/supervised_worker.py", "trainer.train"): "DeepSpeed's and the Trainer's checkpoint, in the run's own folder, "
    "after training/resuming.py found every file to be what the run wrote",
    ("reward/verifiable/in_sandbox.py", "exec"): SANDBOX,
    ("reward/verifiable/in_sandbox.py", "compile"): SANDBOX,
}


def test_nothing_in_the_package_can_run_what_it_reads():
    found = {(file, name): why for file, name, call in calls() if (why := dangerous(name, call))}
    assert found.keys() - ALLOWED.keys() == set(), {place: found[place] for place in found.keys() - ALLOWED.keys()}
    assert ALLOWED.keys() <= found.keys(), "an exception that is needed no more"


@pytest.mark.parametrize("code", [
    "pickle.load(f)", "pickle.loads(b)", "cloudpickle.loads(b)", "torch.load(f)", "torch.load(f, weights_only=False)", "eval(x)", "exec(x)",
    "np.load(f, allow_pickle=True)", "yaml.load(t, Loader=yaml.Loader)", "yaml.unsafe_load(t)", "subprocess.run(c, shell=True)", "os.system(c)",
    "distributed.all_gather_object(x, y)", "dist.broadcast_object_list(x)", "trainer.train(resume_from_checkpoint=x)", "engine.load_checkpoint(x)",
    "httpx.get(u, verify=False)", "AutoModel.from_pretrained(p, trust_remote_code=True)", "pd.read_pickle(f)", "ray.cloudpickle.load(f)",
])
def test_the_search_finds(code):
    call = ast.parse(code, mode="eval").body
    assert dangerous(ast.unparse(call.func), call)


def test_no_module_imports_a_pickler():
    picklers = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names]
            for name in names:
                assert not picklers & set(name.split(".")), f"{file}:{node.lineno} imports {name}"


def test_code_that_comes_with_a_model_runs_only_where_the_configuration_says_so():
    assert RunConfig().model.trust_remote_code is False
    loads = [(file, call) for file, name, call in calls() if name.endswith(".from_pretrained")]
    assert len(loads) >= 8
    for file, call in loads:
        said = keyword(call, "trust_remote_code") or ("**options" if "**options" in ast.unparse(call) else None)
        assert said in ("trust_remote_code", "**options") or (said or "").endswith(".trust_remote_code"), f"{file}:{call.lineno}: {said}"
    loading = (PACKAGE / "models" / "loading.py").read_text()
    assert '"trust_remote_code": trust_remote_code' in loading and '"use_safetensors": True' in loading


class Evil:
    """Its pickle makes a file when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def pickled(tmp_path):
    """A model folder whose weights are a pickle that leaves a trace, and the trace."""
    folder, trace = tiny_policy(tmp_path / "model"), tmp_path / "trace"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(trace)))
    return folder, trace


def test_weights_in_a_pickle_are_refused_before_anything_starts_and_when_loaded(pickled):
    folder, trace = pickled
    said = r"weights in a pickle \(pytorch_model.bin\), which can run any code when it is read; expected \*.safetensors"
    with pytest.raises(ConfigError, match="model.path: .*" + said):
        check(RunConfig(model={"path": str(folder)}, data={"practice": {}}), starts=False)
    for load in (load_causal, load_scalar):
        with pytest.raises(ConfigError, match=said):
            load(str(folder))
    assert not trace.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert trace.exists()  # it would have


def test_transformers_itself_is_told_not_to_take_a_pickle(pickled, monkeypatch):
    """A hub name is not looked into beforehand."""
    folder, trace = pickled
    monkeypatch.setattr("scale_rlhf.models.loading.pickled_weights", lambda path: None)
    with pytest.raises(ConfigError, match="safetensors"):
        load_causal(str(folder))
    assert not trace.exists()


def test_a_pickle_beside_safetensors_is_not_read(tmp_path):
    folder, trace = tiny_policy(tmp_path / "model"), tmp_path / "trace"
    for name in ("training_args.bin", "pytorch_model.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(Evil(trace)))
    load_causal(str(folder))
    assert not trace.exists()


def test_a_damaged_model_is_an_error_of_ours(tmp_path):
    folder = tiny_policy(tmp_path / "model")
    content = (folder / "model.safetensors").read_bytes()
    for damaged in (content[:100], b"", b"\xff" * 64, content[:8] + b"{" * 100):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ConfigError, match="could not be loaded"):
            load_causal(str(folder))


def test_the_engines_read_safetensors_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm.platforms", SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: True)))
    from scale_rlhf.rollout.engine import RolloutEngine

    config = RunConfig()
    engine = RolloutEngine(config.rollout, "m", seed=0, end_token_ids=[1], max_tokens=8, transfer="host")
    arguments = engine._arguments()
    assert arguments["load_format"] == "safetensors" and arguments["trust_remote_code"] is False


def test_a_model_that_brings_code_is_refused(tmp_path):
    folder = tiny_policy(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    with pytest.raises(ConfigError, match="brings Python code of its own"):
        check(RunConfig(model={"path": str(folder)}, data={"practice": {}}), starts=False)
    with pytest.raises(ConfigError):
        load_causal(str(folder))
    assert not (tmp_path / "trace").exists()


def test_a_configuration_makes_no_objects(tmp_path):
    (tmp_path / "run.yaml").write_text(f"run: !!python/object/apply:builtins.open [{tmp_path}/trace, w]\n")
    with pytest.raises(ConfigError, match="malformed YAML"):
        load_config(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match="malformed YAML"):
        load_config(_empty(tmp_path), [f"run.name=!!python/object/apply:builtins.open [{tmp_path}/trace, w]"])
    assert not (tmp_path / "trace").exists()


def _empty(folder: Path) -> Path:
    (folder / "empty.yaml").write_text("{}")
    return folder / "empty.yaml"


# --- secrets ---------------------------------------------------------------------------------------------------------------

@pytest.fixture
def secrets(monkeypatch):
    """Secrets in the environment, and a check that a text shows none."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("SERVICE_API_KEY", "0a1b2c3d4e5f")
    hidden = (PASSWORD, TOKEN, KEY, "0a1b2c3d4e5f")

    def shows_none(text: str) -> bool:
        return not [secret for secret in hidden if secret in text]

    return shows_none


@pytest.mark.parametrize("text", [
    URL, f"x '{URL}' y", f"https://{TOKEN}@hub/m", f"postgres://u:{PASSWORD}@h/d", f"https://u:p@{PASSWORD}@h/", f"http://h/?token={KEY}&a=1",
    f"http://h/?a=1&X-Amz-Signature={KEY}", f"Authorization: Bearer {KEY}", f"{{'authorization': 'Basic {KEY}'}}", f"authorization={KEY}",
    f"(b'Authorization', b'Bearer {KEY}')", f'"x-api-key": "{KEY}"', f"HF_TOKEN is {TOKEN}", "got 0a1b2c3d4e5f from the environment",
    f"Bearer {KEY}", f"cookie: session={KEY}", f"set-cookie: {KEY}; path=/",
])
def test_a_secret_is_hidden_wherever_it_stands(secrets, text):
    hidden = without_secrets(text)
    assert secrets(hidden) and "***" in hidden
    assert without_secrets(hidden) == hidden  # twice is once
    assert secrets(str(RunError(text))) and secrets(json.dumps(redacted({"a": [text], text: 1})))


@pytest.mark.parametrize("text", [
    "http://host:8000/score?x=1", "a@b.org", "stop_token_ids: [1, 2]", "max_prompt_tokens=128", "tokens: 5", "key: value",
    "the bearer of bad news", "data.prompts.columns.key", "no column `token`", "git@github.com:a/b",
])
def test_what_is_no_secret_stays(text, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("SOME_TOKEN_PATH", "/host/score")
    monkeypatch.setenv("KEY", "tokens")
    assert without_secrets(text) == text


def test_what_a_terminal_would_obey_is_written_out():
    assert printable("a\x1b]0;x\x07\n\tb\u202e\ud800ü🙂") == "a\\x1b]0;x\\x07\n\tb\\u202e\\ud800ü🙂"
    assert "\x1b" not in str(DataError("\x1b[31mred"))


def config(tmp_path, **sections) -> RunConfig:
    return RunConfig(run={"name": "toy", "folder": str(tmp_path / "runs"), "stages": ["sft"]}, reward={"url": URL}, **sections)


def test_no_file_of_a_run_holds_a_secret(tmp_path, secrets, monkeypatch):
    """A stage that fails with everything it knows: run.json, error.txt, config.yaml, environment.json, report.html, and what is printed."""
    from scale_rlhf.cluster.processes import ProcessWatch
    from scale_rlhf.stages import runner

    def fails(config, folder):
        try:
            raise OSError(f"cannot reach {URL} with Authorization: Bearer {TOKEN}")
        except OSError as error:
            raise ValueError(f"{error}; environment {dict(os.environ)}") from error

    monkeypatch.setattr("scale_rlhf.stages.sft.run", fails)
    settings = config(tmp_path)
    folder, printed = RunFolder.create(settings, ["sft"]), io.StringIO()
    with pytest.raises(RunError) as failure:
        from rich.console import Console

        runner._run_stage("sft", settings, folder, ProcessWatch(), Console(file=printed))
    folder.note(address=URL, nested={"list": [URL]})
    write_report(folder)
    assert {"config.yaml", "environment.json", "run.json", "report.html"} <= {file.name for file in folder.path.iterdir()}
    assert "***@host" in (folder.path / "config.yaml").read_text() and "***@host" in (folder.path / "sft" / "error.txt").read_text()
    assert json.loads((folder.path / "run.json").read_text())["stages"]["sft"]["state"] == "failed"
    for file in folder.path.rglob("*"):
        assert not file.is_file() or secrets(file.read_text()), file
    assert secrets(str(failure.value)) and secrets(printed.getvalue())


def test_messages_of_a_wrong_configuration_show_no_secret(tmp_path, secrets):
    path = _empty(tmp_path)
    for override in (f"reward.url=[{URL}]", f"rewrd.url={URL}", f"reward.timeout_seconds={URL}", f"reward.url.x={URL}", f"{URL}"):
        with pytest.raises(ConfigError) as error:
            load_config(path, [override])
        assert secrets(str(error.value))
    with pytest.raises(ConfigError) as error:
        check(config(tmp_path), ["ppo"])
    assert secrets(str(error.value))


@pytest.mark.parametrize("url", [
    f"ftp://me:{PASSWORD}@host/", f"http://me:{PASSWORD}@/", f"http://me:{PASSWORD}@host:x/", f"me:{PASSWORD}@host", f"//me:{PASSWORD}@host/",
])
def test_addresses_that_are_refused_are_shown_without_their_password(secrets, url):
    from scale_rlhf.reward.service import ServiceReward

    with pytest.raises(ConfigError) as error:
        ServiceReward(RunConfig(reward={"url": url}), url, None)
    assert secrets(str(error.value)), str(error.value)


def test_processes_are_told_no_secret(secrets):
    """Ray writes an actor's environment into its logs and its dashboard."""
    assert secrets(str(environment(threads=1))) and secrets(str(environment(threads=1, gpus=1)))


def test_the_package_logs_no_environment_and_no_configuration():
    """What is logged or printed is few and known: nothing dumps a whole configuration or environment."""
    for file, name, call in calls():
        if name.split(".")[-1] in ("print", "debug", "info", "warning", "error", "exception") and file != "cli.py":
            assert not re.search(r"os\.environ|model_dump|dump\(", ast.unparse(call)), f"{file}:{call.lineno}"


class Hub:
    """A server that sends who asks it to `elsewhere`, and notes what it was told."""

    def __init__(self, elsewhere: str | None):
        hub = self
        self.told = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.told.append(self.headers.get("Authorization"))
                away = elsewhere if not self.path.startswith("/here") else None
                target = away or ("/here" if elsewhere is None and not self.path.startswith("/here") else None)
                self.send_response(302 if target else 200)
                if target:
                    self.send_header("Location", target)
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


def test_the_token_of_the_hub_stays_with_the_hub(monkeypatch, secrets):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    other = Hub(None)
    hub, own = Hub(other.url + "/here"), Hub(None)
    for chosen in (hub, own):
        monkeypatch.setenv("HF_ENDPOINT", chosen.url)
        assert model_files._fetched("me/model", "config.json", "model.path") == "{}"
    assert hub.told == [f"Bearer {TOKEN}"] and other.told == [None]  # another host is asked without it
    assert own.told == [f"Bearer {TOKEN}"] * 2  # the same one with it: gated models redirect within the hub
    for each in (hub, own, other):
        each.server.shutdown()
        each.server.server_close()


# --- names do not lead out -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["../up", "..", ".", "/abs", "a/b", "a/../../b", ".hidden", "a\x00b", "a\n", "", "~", "a b", "-rf", "a\\b", "ä"])
def test_the_name_of_a_run_is_one_folder(name):
    with pytest.raises(ValueError, match="run.name|name"):
        RunConfig(run={"name": name})


@pytest.mark.parametrize("name", ["x" * 300, "a..b", "a.b-c_d"])
def test_odd_names_stay_inside_or_are_refused(tmp_path, name):
    try:
        folder = RunFolder.create(RunConfig(run={"name": name, "folder": str(tmp_path / "runs")}))
    except (RunError, OSError):
        return
    assert folder.path.parent == tmp_path / "runs"


@pytest.mark.parametrize("stage", ["../../x", "x", "", "ppo/../..", "__init__"])
def test_a_stage_is_one_of_five(stage, tmp_path):
    with pytest.raises(ValueError, match="stages"):
        RunConfig(run={"stages": [stage]})
    folder = RunFolder.create(RunConfig(run={"name": "toy", "folder": str(tmp_path)}), ["sft"])
    state = json.loads((folder.path / "run.json").read_text())
    (folder.path / "run.json").write_text(json.dumps(state | {"stages": {stage: {"state": "waiting"}}}))
    with pytest.raises(UserError, match="run.stages"):  # a folder that somebody else wrote
        check(folder.config(), folder.stages_left(), starts=False)


def test_a_data_set_in_an_archive_stays_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr("scale_rlhf.config.model_files.hub_reachable", lambda: False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "inner" / "cache")
    folder = tmp_path / "inner" / "set"
    folder.mkdir(parents=True)
    row = '{"prompt": "Hi", "response": "Hello"}\n'
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        archive.writestr("train.jsonl", row)
    assert len(read.instructions(DataSource(path=str(folder)))) == 1  # archives are read
    with zipfile.ZipFile(folder / "data.zip", "a") as archive:
        for name in ("../evil.jsonl", "../../evil.jsonl", str(tmp_path / "evil.jsonl")):
            archive.writestr(name, row)
    try:
        read.instructions(DataSource(path=str(folder)))
    except DataError:
        pass
    assert not [file for file in tmp_path.rglob("evil.jsonl") if not file.is_relative_to(tmp_path / "inner" / "cache")]


def test_columns_of_the_data_cannot_pass_for_ours(tmp_path):
    file = tmp_path / "a.jsonl"
    row = {"prompt": "Hi", "_at": "/etc/passwd:1", "messages": "x"}
    file.write_text(json.dumps(row))
    (found,) = read.prompts(DataSource(path=str(file)))
    assert found["_at"] == f"{file}:1" and found["messages"] == [{"role": "user", "content": "Hi"}]


def test_text_of_the_data_is_no_html_in_a_report(tmp_path):
    folder = RunFolder.create(RunConfig(run={"name": "toy", "folder": str(tmp_path)}))
    folder.set_stage("sft", "failed", error="<script>alert(1)</script>")
    assert "<script>alert" not in write_report(folder).read_text()


# --- Ray -------------------------------------------------------------------------------------------------------------------

def test_the_token_of_ray_is_for_its_owner_alone(tmp_path, monkeypatch):
    from scale_rlhf.cluster.ray_cluster import _private_token

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    path = tmp_path / ".ray" / "auth_token"
    before = os.umask(0)
    try:
        _private_token()
    finally:
        os.umask(before)
    token = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600 and re.fullmatch(r"[0-9a-f]{64}", token)
    path.chmod(0o644)  # as Ray leaves it
    _private_token()
    assert path.stat().st_mode & 0o777 == 0o600 and path.read_text() == token


def test_a_cluster_is_on_loopback_unless_one_is_joined(monkeypatch):
    from scale_rlhf.cluster import ray_cluster

    assert RunConfig().cluster.address is None
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    seen = {}

    def init(**options):
        seen.update(options)
        raise Exception("timed out during startup")  # noqa: TRY002 - as Ray does

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr(ray_cluster, "_private_token", lambda: None)
    with pytest.raises(RunError, match="Ray did not start on this machine: timed out"):
        ray_cluster._start(RunConfig(), {})
    assert seen["address"] == "local" and seen["dashboard_host"] == "127.0.0.1"
