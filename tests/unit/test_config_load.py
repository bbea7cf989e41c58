"""Configuration files: what is right loads and dumps to the same; what is wrong is said with its place and the nearest name."""
# ruff: noqa: E501 - a case and its message stay on one line

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scale_rlhf.config.load import dump, key_paths, load_config, validated
from scale_rlhf.config.page import page
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError

ROOT = Path(__file__).parents[2]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), overrides)
    return str(caught.value)


def test_a_dumped_configuration_loads_to_an_equal_one(tmp_path):
    config = load_config(write(tmp_path, "policy: {learning_rate: 1e-6}\ndata: {prompts: a.jsonl, practice: {}}"), ["ppo.steps=3"])
    assert (config.policy.learning_rate, config.ppo.steps, config.data.prompts.path) == (1e-6, 3, "a.jsonl")
    assert load_config(write(tmp_path, dump(config))) == config


def test_an_empty_file_is_all_defaults(tmp_path):
    assert load_config(write(tmp_path, "# nothing\n")) == RunConfig()


@pytest.mark.parametrize(("text", "expected"), [
    ("ppo:\n  stpes: 3\n", "run.yaml:2: ppo.stpes: unknown key; did you mean `ppo.steps`?"),
    ("ppo:\n  learning_rate: 3\n", "run.yaml:2: ppo.learning_rate: unknown key; did you mean `base.learning_rate`"),
    ("run: {}\nrollot: {}\n", "run.yaml:2: rollot: unknown key; did you mean `rollout`?"),
    ("model:\n  scratch:\n    head_dims: 32\n", "run.yaml:3: model.scratch.head_dims: unknown key; did you mean `model.scratch.head_dim`?"),
    ("data:\n  prompts:\n    pth: x\n", "run.yaml:3: data.prompts.pth: unknown key; did you mean `data.prompts.path`?"),
    ("ppo:\n\n  steps: many\n", "run.yaml:3: ppo.steps: expected a valid integer, unable to parse string as an integer; found the text many"),
    ("ppo: {steps: 0}", "run.yaml:1: ppo.steps: expected greater than 0; found the number 0"),
    ("policy: {dtype: bfloat}", "policy.dtype: expected 'float32' or 'bfloat16'; found the text bfloat; did you mean bfloat16?"),
    ("run:\n  stages: [sft, poo]\n", "run.yaml:2: run.stages.1: expected 'base', 'sft', 'reward', 'best_of_n', 'dpo', 'ppo' or 'evaluate'; found the text poo; did you mean ppo?"),
    ("ppo: 3", "run.yaml:1: ppo: expected a section with keys of its own ({} for its defaults); found the number 3"),
    ("ppo:\n", "ppo: expected a section with keys of its own ({} for its defaults); found null"),
    ("- a\n", "run.yaml:1: expected sections"),
    ("run: {name: a}\nppo: {steps: 1\n", "run.yaml:3: malformed YAML"),
    ("run: {}\nppo: {}\nrun: {}\n", "run.yaml:3: run: the key is there twice (first at"),
    ("run: {name: ../up}", "run.yaml:1: run.name: expected text that should match pattern"),
    ("1: 2", "run.yaml"),
    ("? [a]\n: 1", "run.yaml:1: malformed YAML"),
    ("a: &a {b: *a}", "run.yaml"),
])
def test_a_mistake_is_told_with_file_line_key_and_the_nearest_name(tmp_path, text, expected):
    assert expected in message(tmp_path, text)


@pytest.mark.parametrize(("override", "expected"), [
    ("ppo.stpes=3", "override ppo.stpes=3: ppo.stpes: unknown key; did you mean `ppo.steps`?"),
    ("ppo.steps=x", "override ppo.steps=x: ppo.steps: expected a valid integer"),
    ("ppo.steps", "override ppo.steps: expected key.path=value"),
    ("=3", "override =3: expected key.path=value"),
    ("ppo.steps=[1", "override ppo.steps=[1: the value is malformed YAML"),
])
def test_a_mistake_in_an_override_names_the_override(tmp_path, override, expected):
    assert expected in message(tmp_path, "ppo: {steps: 3}", override)


@pytest.mark.parametrize(("text", "expected"), [
    ("ppo:\n  gamma: 1\n  kl_coefficient: .inf\n", "run.yaml:3: ppo.kl_coefficient: expected a finite number; found inf"),
    ("policy:\n  learning_rate: nan\n", "run.yaml:2: policy.learning_rate: "),
    ("run:\n  seed: 0x" + "f" * 6000, "run.yaml:2: run.seed: expected a number of less than 64 bits; found one of 24000"),
    ("policy:\n  dtype: 0x" + "f" * 6000, "run.yaml:2: policy.dtype: expected 'float32' or 'bfloat16'; found the number that cannot be shown"),
    ("ppo:\n  gamma: 0x" + "f" * 6000, "run.yaml:2: ppo.gamma: "),
    ('run:\n  seed: !!int ""\n', "run.yaml: malformed YAML: a value that its tag does not fit"),
    ("a: &a\n  b: *a\n", "malformed YAML: an anchor that holds itself"),
    ("run: " + "[" * 3000, "run.yaml: malformed YAML: maximum recursion depth"),
    ("a: &a [" + "x, " * 999 + "x]\nb: &b [" + "*a, " * 999 + "*a]\n", "with its aliases written out it has 1e+06 values"),
    ("!!set {run}\n", "run.yaml:1: expected sections"),
])
def test_values_that_nothing_can_work_with(tmp_path, text, expected):
    assert expected in message(tmp_path, text)


def test_all_mistakes_are_told_at_once(tmp_path):
    assert len(message(tmp_path, "ppo: {steps: 0, epochs: 0}\nrun: {nme: x}").splitlines()) == 3


def test_a_missing_file_names_the_nearest_one(tmp_path):
    write(tmp_path, "")
    with pytest.raises(ConfigError, match=r"runn.yaml: there is no such file; did you mean .*run.yaml\?"):
        load_config(tmp_path / "runn.yaml")


def test_an_override_deepens_a_source_that_is_a_path(tmp_path):
    config = load_config(write(tmp_path, "data: {prompts: a.jsonl}"), ["data.prompts.limit=10", "data.practice.seed=4"])
    assert (config.data.prompts.path, config.data.prompts.limit, config.data.practice.seed) == ("a.jsonl", 10, 4)


def test_an_override_of_what_an_anchor_shares_changes_one_alone(tmp_path):
    config = load_config(write(tmp_path, "sft: &s {workers: 2}\nreward_model: *s\n"), ["sft.workers=3"])
    assert (config.sft.workers, config.reward_model.workers) == (3, 2)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=5,
)


@given(st.sampled_from(key_paths()), VALUES)
def test_any_value_for_any_key_is_taken_or_refused_with_a_message(path, value):
    values = value
    for name in reversed(path):
        values = {name: values}
    try:
        validated(values, {path: "run.yaml:1"}, "run.yaml")
    except ConfigError as error:
        assert path[0] in str(error) and str(error).startswith("run.yaml")


@given(st.text(max_size=60))
def test_no_file_raises_anything_but_our_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        load_config(path)
    except ConfigError:
        pass


@given(st.text(max_size=30))
def test_no_override_raises_anything_but_our_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "empty.yaml"
    path.write_text("data: {prompts: a.jsonl}")
    try:
        load_config(path, [text])
    except ConfigError:
        pass


def test_loading_takes_no_torch():
    code = "import sys, scale_rlhf.config.load, scale_rlhf.config.checks, scale_rlhf.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_of_the_project_loads(path):
    assert yaml.safe_load(dump(load_config(path)))["run"]["name"] == path.stem


def test_the_page_of_the_configuration_is_up_to_date():
    assert (ROOT / "docs" / "configuration.md").read_text() == page(), "run: python -m scale_rlhf.config.page > docs/configuration.md"


def test_every_key_has_a_sentence():
    assert [line for line in page().splitlines() if line.startswith("| `") and line.endswith("|  |")] == []
