import pytest

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.stages.models import check_same_vocabulary, starting_model
from tests.tiny import tiny_policy


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def make(folder, *stages):
    for stage in stages:
        folder.model(stage).mkdir(parents=True)
        (folder.model(stage) / "config.json").write_text("{}")


def test_what_the_stage_before_made(folder):
    config = RunConfig()
    make(folder, "base")
    assert starting_model(config, folder, "sft") == str(folder.model("base"))
    assert starting_model(config, folder, "policy") == str(folder.model("base"))
    make(folder, "sft", "reward")
    for role in ("reward_model", "policy", "reference"):
        assert starting_model(config, folder, role) == str(folder.model("sft"))
    for role in ("value", "reward"):
        assert starting_model(config, folder, role) == str(folder.model("reward"))


def test_the_config_comes_first(folder):
    make(folder, "base", "sft", "reward")
    config = RunConfig.model_validate(
        {"model": {"path": "m"}, "policy": {"model": "p"}, "reward": {"model": "r"}, "value": {"initial": "policy"}},
    )
    assert starting_model(config, folder, "reference") == "p"  # the policy's start
    assert starting_model(config, folder, "value") == "p"
    assert starting_model(config, folder, "reward") == "r"
    config.value.initial = "reward"
    assert starting_model(config, folder, "value") == "r"


def test_model_path_where_no_stage_ran(folder):
    config = RunConfig.model_validate({"model": {"path": "hub/name"}})
    assert starting_model(config, folder, "sft") == starting_model(config, folder, "policy") == "hub/name"


@pytest.mark.parametrize("role, key", [
    ("sft", "sft.model"), ("policy", "policy.model"), ("reference", "policy.model"), ("reward", "reward.model"),
])
def test_no_model_says_which_key_to_set(folder, role, key):
    with pytest.raises(ConfigError, match=key):
        starting_model(RunConfig(), folder, role)


def test_a_reward_function_cannot_start_the_value_model(folder):
    config = RunConfig.model_validate({"reward": {"function": "a.b:c"}})
    with pytest.raises(ConfigError, match="value.initial=policy"):
        starting_model(config, folder, "value")


def test_vocabularies(tmp_path):
    sizes = {"a": 320, "b": 320, "c": 300}
    first, same, other = (str(tiny_policy(tmp_path / name, vocabulary=size)) for name, size in sizes.items())
    check_same_vocabulary(first, same)
    with pytest.raises(ConfigError, match="different vocabularies: 320 and 300"):
        check_same_vocabulary(first, other)
