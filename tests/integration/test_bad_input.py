"""Bad input ends before anything starts: one readable message, exit status 2, no run folder, no process."""
# ruff: noqa: E501 - a case and its message stay on one line

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scale_rlhf.cli import app
from tests.tiny import tiny_policy


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_policy(tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Runs `scale-rlhf run` on a configuration, and gives the message that it ended with."""

    def never(*_, **__):
        raise AssertionError("Ray was started")

    monkeypatch.setattr("scale_rlhf.stages.runner.session", never)

    def run(text: str, *overrides: str) -> str:
        config = tmp_path / "toy.yaml"
        config.write_text(text)
        runs = tmp_path / "runs"
        before = sorted(runs.rglob("*"))
        done = CliRunner().invoke(app, ["run", str(config), f"run.folder={runs}", *overrides])
        assert done.exit_code == 2, done.exception
        assert sorted(runs.rglob("*")) == before, "something was written"
        assert "Traceback" not in done.stderr
        return done.stderr

    return run


def data(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def pairs(count: int, **other) -> list[dict]:
    return [{"prompt": f"Question {i}", "chosen": "yes", "rejected": "no", **other} for i in range(count)]



def test_unknown_key(refused, tmp_path):
    assert f"{tmp_path}/toy.yaml:3: ppo.clip_hihg: unknown key; did you mean `ppo.clip_high`?" in refused("cluster: {cpus: 8}\nppo:\n  clip_hihg: 0.3\n")


def test_wrong_type(refused, tmp_path):
    assert f"{tmp_path}/toy.yaml:2: ppo.steps: expected a valid integer" in refused("ppo:\n  steps: [1]\n")
    assert "override policy.workers=two: policy.workers: expected a valid integer" in refused("{}", "policy.workers=two")


def test_missing_file(refused, tmp_path):
    data(tmp_path, *pairs(3))
    said = refused("cluster: {cpus: 8}", f"data.preferences={tmp_path}/pair.jsonl")
    assert f"data.preferences: file {tmp_path}/pair.jsonl does not exist" in said and f"did you mean {tmp_path}/pairs.jsonl?" in said


def test_missing_configuration(tmp_path):
    (tmp_path / "toy.yaml").write_text("")
    done = CliRunner().invoke(app, ["run", str(tmp_path / "tyo.yaml")])
    assert done.exit_code == 2 and f"there is no such file; did you mean {tmp_path}/toy.yaml?" in done.stderr


def test_malformed_json_line(refused, tmp_path):
    path = data(tmp_path, *pairs(3), '{"prompt": "x", "chosen": "y", "rejected": "z"')
    assert f"{path}:4: malformed JSON" in refused("cluster: {cpus: 8}", f"data.preferences={path}")


def test_missing_column(refused, tmp_path):
    path = data(tmp_path, *pairs(2), {"prompt": "x", "chosen": "y", "rejceted": "z"})
    said = refused("cluster: {cpus: 8}", f"data.preferences={path}")
    assert f"{path}:3: no column `rejected`" in said and "is it `rejceted`?" in said


def test_empty_dataset(refused, tmp_path):
    path = data(tmp_path)
    assert f"{path} has no rows; expected at least one" in refused("cluster: {cpus: 8}", f"data.preferences={path}")


def test_prompt_over_the_limit(refused, tmp_path, model):
    path = data(tmp_path, *pairs(20), {"prompt": "long " * 60, "chosen": "y", "rejected": "z"})
    overrides = [f"data.preferences={path}", f"model.path={model}", "data.max_prompt_tokens=40"]
    said = refused("cluster: {cpus: 8}", *overrides)
    assert f"{path}:21: the prompt has" in said and "tokens, more than data.max_prompt_tokens (40)" in said
    assert "leave them out with data.long_prompts=filter" in said


def test_prompt_over_the_limit_of_a_model_from_scratch(refused):
    said = refused("cluster: {cpus: 8}\ndata: {practice: {base_lines: 200, demonstrations: 50, rated_prompts: 50, prompts: 50}}", "data.max_prompt_tokens=8")
    assert "prompts.jsonl:" in said and "tokens, more than data.max_prompt_tokens (8)" in said


def test_tokenizer_without_a_chat_template(refused, tmp_path, model):
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    for file in bare.glob("chat_template*"):
        file.unlink()
    settings = json.loads((bare / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(settings))
    said = refused("cluster: {cpus: 8}", f"data.preferences={data(tmp_path, *pairs(9))}", f"model.path={bare}")
    assert f"model.path: the tokenizer of {bare} has no chat template" in said and "give a file with one as model.chat_template" in said


def test_tokenizer_without_an_end_token(refused, tmp_path, model):
    bare = tmp_path / "endless"
    shutil.copytree(model, bare)
    settings = json.loads((bare / "tokenizer_config.json").read_text())
    settings.pop("eos_token", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(settings))
    said = refused("cluster: {cpus: 8}", f"data.preferences={data(tmp_path, *pairs(9))}", f"model.path={bare}")
    assert f"model.path: the tokenizer of {bare} has no end token" in said


def test_a_template_that_never_ends_a_turn(refused, tmp_path, model):
    template = tmp_path / "endless.jinja"
    template.write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    said = refused("cluster: {cpus: 8}", f"data.preferences={data(tmp_path, *pairs(40))}", f"model.path={model}", f"model.chat_template={template}")
    assert "the chat template puts no end token after the assistant's turn" in said


def test_policy_and_reference_of_different_vocabularies(refused, tmp_path, model):
    other = tiny_policy(tmp_path / "other", vocabulary=300)
    said = refused("cluster: {cpus: 8}", f"data.preferences={data(tmp_path, *pairs(9))}", f"model.path={model}", f"reference.model={other}")
    assert f"reference.model: {other} and {model} (model.path) have different vocabularies" in said


def test_head_size_that_the_cpu_backend_lacks(refused):
    said = refused("cluster: {cpus: 8}\ndata: {practice: {}}\nmodel: {scratch: {head_dim: 40}}")
    assert "model.scratch.head_dim: head size 40, and vLLM's CPU backend has 32, 64, 80, 96" in said and "the nearest is 32" in said


def test_more_than_the_cluster_has(refused):
    said = refused("cluster: {cpus: 2}\ndata: {practice: {}}\npolicy: {workers: 2, gpus: 1}")
    assert "stage ppo asks for 6 CPUs and 2 GPUs, and this machine's cluster has 2 and" in said and "policy 2 × (1 CPUs, 1 GPUs)" in said


def test_an_output_folder_that_holds_something_else(refused, tmp_path):
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "thesis.tex").write_text("mine")
    said = refused("cluster: {cpus: 8}\ndata: {practice: {}}")
    assert "runs/run holds something that is not a run of scale-rlhf" in said and "Give run.name=OTHER" in said


def test_several_mistakes_are_one_message(refused, tmp_path):
    said = refused("cluster: {cpus: 8}\nrollout: {top_p: 0.9}\noverlap: {correction: truncated}", f"data.preferences={tmp_path}/none.jsonl")
    assert {"rollout.top_p", "overlap.correction", "data.preferences"} <= {line.removeprefix("scale-rlhf: ").split(":")[0] for line in said.splitlines()}


