"""What is sent to a cluster: the configuration and the user's functions; nothing secret, nothing large, nothing of tools."""

import subprocess
from pathlib import Path

import pytest

from scale_rlhf.config.load import load_config
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError
from scale_rlhf.launching import packing
from scale_rlhf.launching.packing import CONFIG_FILE, check_paths, code_folder, files_of, pack

SENT = ("rewards.py", "words/list.txt", "words/deeper/other.py", "Makefile")
LEFT_OUT = (
    ".env", "prod.env", ".netrc", "deploy/server.pem", "deploy/tls.key", "id_rsa", "id_ed25519.pub", "aws-credentials.json",
    "auth_token", "my-secrets.yaml", "kubeconfig.yaml", "model.safetensors", "words/old.ckpt", "pytorch_model.bin",
    ".git/config", ".venv/lib/x.py", "venv/x.py", "node_modules/x.js", "__pycache__/rewards.cpython-311.pyc", "runs/toy/run.json",
    "scale_rlhf/cli.py", ".idea/x.xml", "wandb/x",
)


@pytest.fixture
def code(tmp_path) -> Path:
    folder = tmp_path / "code"
    for name in (*SENT, *LEFT_OUT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}\n")
    return folder


@pytest.fixture
def into(tmp_path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_functions_go_and_the_rest_stays(code, into):
    package = pack(RunConfig(run={"folder": "/runs"}), code, into)
    assert names(into) == {*SENT, CONFIG_FILE}
    assert {str(file) for file in package.files} == set(SENT) and package.size == sum(len(f"# {n}\n") for n in SENT)
    assert load_config(into / CONFIG_FILE).run.folder == "/runs"


def test_what_git_ignores_stays(code):
    (code / ".git" / "config").unlink()
    (code / ".git").rmdir()
    (code / ".gitignore").write_text("words/\n")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@y"]
    subprocess.run([*git, "init", "-q"], cwd=code, check=True)
    assert {str(file) for file in files_of(code)} == {"rewards.py", "Makefile"}


def test_a_link_out_of_the_folder_is_not_followed(code, tmp_path):
    (tmp_path / "elsewhere.txt").write_text("private")
    (code / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
    (code / "inside.txt").symlink_to(code / "rewards.py")
    assert {str(file) for file in files_of(code)} == {*SENT, "inside.txt"}


def test_too_large_names_the_largest(code, into, monkeypatch):
    (code / "corpus.txt").write_text("x" * 3000)
    monkeypatch.setattr(packing, "MOST_BYTES", 2000)
    with pytest.raises(ConfigError, match=r"5 files of 0 MB would be sent(.|\n)*0.0 MB  corpus.txt\n(.|\n)*\.gitignore"):
        pack(RunConfig(), code, into)
    assert names(into) == set()


def test_too_many(code, into, monkeypatch):
    monkeypatch.setattr(packing, "MOST_FILES", 3)
    with pytest.raises(ConfigError, match="4 files of .* at most 3 files"):
        pack(RunConfig(), code, into)


@pytest.mark.parametrize("how", ["variable", "file"])
def test_the_token_of_ray_is_never_sent(code, into, tmp_path, monkeypatch, how):
    token = "0123456789abcdef" * 4
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    if how == "variable":
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    else:
        (tmp_path / "token").write_text(token + "\n")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    (code / "rewards.py").write_text(f"TOKEN = '{token}'\n")
    with pytest.raises(ConfigError, match="rewards.py holds Ray's token") as caught:
        pack(RunConfig(), code, into)
    assert token not in str(caught.value)
    assert not any(token in path.read_text() for path in into.rglob("*") if path.is_file())


def test_a_password_in_the_configuration_is_not_sent(into):
    with pytest.raises(ConfigError, match=r"`url: https://\*\*\*@host/score`: a password would lie on the cluster") as caught:
        pack(RunConfig(reward={"url": "https://me:pass-w0rd@host/score"}), None, into)
    assert "pass-w0rd" not in str(caught.value) and names(into) == set()


def test_the_folder_of_functions(code, tmp_path, monkeypatch):
    (code / "package").mkdir()
    (code / "package" / "__init__.py").touch()
    monkeypatch.chdir(code)
    assert code_folder(RunConfig(reward={"function": "rewards:score"})) == code
    assert code_folder(RunConfig(reward={"function": "package.inner:score"})) == code
    assert code_folder(RunConfig(reward={"function": "words.deeper.other:score"})) == code  # a folder without __init__.py
    assert code_folder(RunConfig()) is None
    assert code_folder(RunConfig(reward={"function": "math:fsum"})) is None
    assert code_folder(RunConfig(reward={"function": "yaml:safe_load"})) is None  # installed: it is on the cluster too
    other = tmp_path / "other"
    other.mkdir()
    (other / "judge.py").touch()
    monkeypatch.syspath_prepend(str(other))
    assert code_folder(RunConfig(evaluation={"judge": "judge:name"})) == other
    verified = {"prompt_sets": {"school": {"path": "x", "verify": {"function": "judge:name"}}}}
    for section in ({"judges": {"one": {"function": "judge:name"}}}, verified):
        assert code_folder(RunConfig(evaluation=section)) == other
    with pytest.raises(ConfigError, match="in one folder.*reward.function in .*code and evaluation.judge in .*other"):
        code_folder(RunConfig(reward={"function": "rewards:score"}, evaluation={"judge": "judge:name"}))


def test_paths_of_this_machine_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").touch()
    (tmp_path / "models").mkdir()
    config = RunConfig(data={"prompts": "prompts.jsonl"}, model={"path": "models/base", "chat_template": "chat.jinja"},
                       reward={"ensemble": ["some/hub-name", "models/base"]},
                       evaluation={"models": {"before": "models/base"}, "prompt_sets": {"more": "prompts.jsonl"},
                                   "judges": {"other": {"model": "models/base"}}})
    with pytest.raises(ConfigError) as caught:
        check_paths(config)
    said = str(caught.value)
    assert [line.split(":")[0] for line in said.splitlines()] == [
        "run.folder", "model.path", "model.chat_template", "reward.ensemble.1", "evaluation.judges.other.model",
        "data.prompts", "evaluation.prompt_sets.more", "evaluation.models.before"]
    assert "run.folder=/shared/runs" in said


def test_absolute_paths_and_hub_names_pass(tmp_path):
    config = RunConfig(run={"folder": "/shared/runs"}, model={"path": "Qwen/Qwen2.5-0.5B"},
                       data={"prompts": str(tmp_path), "preferences": "Anthropic/hh-rlhf", "instructions": "/nowhere/x.jsonl"})
    notes = check_paths(config)
    assert len(notes) == 1 and "data.instructions: /nowhere/x.jsonl is not on this machine" in notes[0]
