"""Plans by arithmetic: the configurations that ship fit, what does not fit says so, and a cure that is told works."""
# ruff: noqa: E501 - a case and its message stay on one line

import json
from pathlib import Path

import pytest

from scale_rlhf.config.checks import check, stages_of
from scale_rlhf.config.load import load_config
from scale_rlhf.config.roles import LoraSection
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.config.sizing import adapters, engine, parameters, shapes
from scale_rlhf.config.sizing.cures import applied, cured
from scale_rlhf.config.sizing.plan import GB, plan
from scale_rlhf.config.sizing.table import mistakes, table
from scale_rlhf.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LARGE = ("llama-8b", "llama-70b", "llama-405b", "qwen2.5-0.5b")


@pytest.fixture(autouse=True)
def without_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def loaded(name: str, *overrides: str) -> RunConfig:
    return load_config(CONFIGS / f"{name}.yaml", overrides)


def planned(config: RunConfig):
    return plan(config, stages_of(config))


def told(config: RunConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        check(config, starts=False)
    return str(caught.value)


@pytest.mark.parametrize("name", LARGE)
def test_a_configuration_that_ships_fits(name):
    config = loaded(name)
    found = planned(config)
    assert config.run.name == name
    assert {stage.stage for stage in found.stages} == {"sft", "reward", "ppo"} and not found.models.unknown
    assert not found.problems
    assert all(need.total <= config.cluster.gpu_gb * GB for stage in found.stages for need in stage.needs)
    check(config, starts=False)


@pytest.mark.parametrize(("name", "nodes", "policy"), [
    ("llama-8b", 1, 8_030_261_248), ("llama-70b", 8, 70_553_706_496), ("llama-405b", 32, 405_853_388_800),
])
def test_the_sizes_are_those_of_the_names(name, nodes, policy):
    config = loaded(name)
    assert (config.cluster.nodes, config.cluster.gpus_per_node) == (nodes, 8)
    assert max(stage.gpus for stage in planned(config).stages) == 8 * nodes
    assert parameters.count(parameters.tensors(planned(config).models.shapes["policy"])) == policy


def test_dpo_holds_its_reference_beside_the_model():
    """The reference is whole on every worker; with ZeRO 3 each has its part, or all of it where it is alone."""
    sft = {"gpus": 1, "workers": 2, "dtype": "bfloat16"}
    config = RunConfig.model_validate({"model": {"path": "meta-llama/Llama-3.1-8B", "shapes": {"meta-llama/Llama-3.1-8B": "llama-3.1-8b"}},
                                       "data": {"practice": {}}, "sft": sft, "dpo": sft})
    weights = {one.role: one.weights for stage in plan(config, ["sft", "dpo"]).stages for one in stage.needs}
    assert weights["dpo"] - weights["sft"] == 2 * 8_030_261_248
    config.sft.zero_stage = config.dpo.zero_stage = 3
    weights = {one.role: one.weights for stage in plan(config, ["sft", "dpo"]).stages for one in stage.needs}
    assert 0.99 < (weights["dpo"] - weights["sft"]) / 8_030_261_248 < 1.1


TOO_LARGE = [
    ("llama-8b", ["policy.zero_stage=1"], "policy does not fit"),
    ("llama-8b", ["policy.gradient_checkpointing=false", "ppo.tokens_per_microbatch=16384"], "policy does not fit"),
    ("llama-8b", ["ppo.tokens_per_microbatch=65536"], "policy does not fit"),
    ("llama-8b", ["cluster.gpu_gb=40"], "policy does not fit"),
    ("llama-8b", ["sft.microbatch=32", "sft.batch_size=256"], "sft does not fit"),
    ("llama-8b", ["reference.tokens_per_batch=65536"], "reference does not fit"),
    ("llama-8b", ["reference.tokens_per_batch=32768", "reward.dtype=float32"], "reward and reference do not fit on one GPU"),
    ("llama-8b", ["rollout.gpu_memory_utilization=0.2"], "rollout does not fit: weights, forwards and the cache"),
    ("llama-8b", ["rollout.gpu_memory_utilization=0.98"], "rollout does not fit"),
    ("llama-8b", ["policy.workers=5"], "asks for 10 GPUs, and cluster.nodes × cluster.gpus_per_node is 1 × 8 = 8"),
    ("llama-70b", ["policy.workers=16"], "policy does not fit"),
    ("llama-70b", ["policy.workers=8", "value.workers=8"], "value does not fit"),
    ("llama-70b", ["reference.workers=1"], "reference does not fit"),
    ("llama-70b", ["rollout.tensor_parallel=1", "rollout.engines=8"], "rollout does not fit: weights, forwards and the cache"),
    ("llama-70b", ["cluster.nodes=4"], "asks for 64 GPUs"),
    ("llama-70b", ["policy.zero_stage=2"], "policy does not fit"),
    ("llama-405b", ["cluster.gpu_gb=80"], "rollout does not fit: weights, forwards and the cache"),
    ("llama-405b", ["policy.workers=64"], "policy does not fit"),
    ("llama-405b", ["rollout.tensor_parallel=16", "rollout.engines=2"], "ranks of an engine run on one node and take 16 GPUs"),
    ("qwen2.5-0.5b", ["ppo.tokens_per_microbatch=16384"], "policy does not fit"),
]


@pytest.mark.parametrize(("name", "overrides", "expected"), TOO_LARGE, ids=lambda part: part if isinstance(part, str) else " ".join(part))
def test_what_does_not_fit_is_an_error_and_its_cures_work(name, overrides, expected):
    config = loaded(name, *overrides)
    assert expected in told(config)
    found = cured(config, planned(config))
    assert [one.problem for one in found] == planned(config).problems
    assert all(one.cures or one.before for one in found)
    mended = config
    for one in found:  # the first cures together make the run fit
        for cure in one.cures:  # and each alone, after those before it, mends its own problem
            left = planned(applied(mended, cure)).problems
            assert one.problem.text not in [problem.text for problem in left]
            assert len(left) < len(planned(mended).problems)
        mended = applied(mended, one.cures[0]) if one.cures else mended
    assert not planned(mended).problems
    check(mended, starts=False)


def test_a_cure_is_told_as_overrides_that_can_be_given():
    message = told(loaded("llama-8b", "policy.zero_stage=1"))
    cure = message.split("It fits with ")[1].split("; or with ")[0]
    assert cure == "policy.zero_stage=3"
    check(loaded("llama-8b", "policy.zero_stage=1", *cure.split()), starts=False)


def test_without_room_in_the_cluster_the_cure_names_the_nodes():
    config = loaded("llama-8b", "policy.workers=5")
    (one,) = cured(config, planned(config))
    assert one.cures == [{"cluster.nodes": 2, "cluster.address": "auto"}]


def test_a_405b_engine_on_one_node_of_80_gb_gpus_is_refused_and_larger_gpus_are_named():
    config = loaded("llama-405b", "cluster.gpu_gb=80")
    first = cured(config, planned(config))[0]
    assert first.problem.roles == ("rollout",)
    assert all(set(cure) == {"cluster.gpu_gb"} and 80 < cure["cluster.gpu_gb"] <= 141 for cure in first.cures)


def test_parts_of_a_gpu_add_up_over_roles():
    config = loaded("llama-8b")
    rows = {need.role: need for stage in planned(config).stages for need in stage.needs}
    both = (rows["reward"].total + rows["reference"].total) / GB
    assert both < 80
    config.cluster.gpu_gb = both - 0.1
    assert any(problem.roles == ("reward", "reference") for problem in planned(config).problems)
    config.reward.gpus = config.reference.gpus = 1.0
    assert not any(problem.roles == ("reward", "reference") for problem in planned(config).problems)


def test_two_replicas_of_the_heavier_role_may_meet_on_a_gpu():
    config = loaded("llama-8b", "reference.replicas=2")
    row = next(need for stage in planned(config).stages for need in stage.needs if need.role == "reference")
    config.cluster.gpu_gb = 1.9 * row.total / GB
    assert any(problem.roles == ("reference",) and "which they may share" in problem.text for problem in planned(config).problems)


def test_the_table_has_a_row_for_every_role_and_its_parts_add_up():
    config = loaded("llama-70b")
    found = planned(config)
    lines = table(config, found)
    assert lines[0] == "GB a GPU, by arithmetic (docs/sizing.md); planned for 8 × 8 GPUs of 80 GB"
    for role in ("sft", "reward_model", "rollout", "reward", "reference", "policy", "value"):
        (line,) = [line for line in lines if line.split()[0] == role]
        numbers = [float(cell) for cell in line.split()[4:] if cell.replace(".", "").isdigit()]
        assert sum(numbers[:-1]) == pytest.approx(numbers[-1], abs=0.05 * len(numbers))


def test_without_gpus_there_is_no_table():
    config = load_config(CONFIGS / "quickstart.yaml")
    assert table(config, planned(config)) == [] and list(mistakes(config, planned(config))) == []


def test_without_the_gpus_size_nothing_is_refused():
    config = loaded("llama-70b", "cluster.gpu_gb=null", "cluster.gpus_per_node=null", "policy.zero_stage=1")
    assert not planned(config).problems
    assert "of a size that is not given (cluster.gpu_gb)" in table(config, planned(config))[0]


def test_offload_moves_bytes_to_the_host():
    config = loaded("llama-8b", "policy.offload_optimizer=true")
    rows = [next(need for need in planned(one).stages[-1].needs if need.role == "policy") for one in (loaded("llama-8b"), config)]
    assert rows[1].total < rows[0].total - 30 * GB and rows[1].host > 30 * GB and rows[0].host == 0


def test_more_than_one_node_needs_an_address():
    assert "cluster.nodes: a cluster that a run starts is this machine alone; found 8" in told(
        loaded("llama-70b", "cluster.address=null"))


@pytest.mark.parametrize(("ranks", "expected"), [
    (3, "must divide the model's 64 attention heads; found 3. The nearest that fits is 2 or 4"),
    (128, "must divide the model's 64 attention heads; found 128. The nearest that fits is 64"),
])
def test_tensor_parallel_must_divide(ranks, expected):
    assert f"rollout.tensor_parallel: {expected}" in told(loaded("llama-70b", f"rollout.tensor_parallel={ranks}"))


@pytest.mark.parametrize(("sizes", "ranks", "expected"), [
    ((12, 12, 48, 64), 12, "must divide the model's vocabulary, which vLLM fills up to 64 tokens; found 12. The nearest that fits is 4"),
    ((16, 4, 40, 64), 16, "must divide the model's feed-forward width of 40; found 16. The nearest that fits is 8"),
    ((12, 4, 48, 192), 6, "must divide the model's 4 key-value heads, or be a multiple of them; found 6. The nearest that fits is 4 or 12"),
    ((16, 4, 64, 100), 8, None), ((16, 4, None, None), 16, None),
])
def test_what_tensor_parallelism_cuts(sizes, ranks, expected):
    assert engine.tensor_parallel_problem(engine.Cut(*sizes), ranks) == expected


def test_a_shape_is_named_by_a_run_where_the_hub_is_not_at_hand():
    config = loaded("llama-8b", "model.shapes={}")
    assert "not planned: the memory of sft, reward_model, rollout, reward, reference, policy, value: the shape of " \
           "meta-llama/Llama-3.1-8B-Instruct is not known here" in "\n".join(check(config, starts=False))
    assert "did you mean llama-3.1-8b?" in told(loaded("llama-8b", "model.shapes={meta-llama/Llama-3.1-8B-Instruct: llama-3.1-8}"))


def test_a_model_on_disk_is_planned_by_its_own_file(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shapes.shipped("qwen2.5-0.5b")))
    config = loaded("llama-8b", f"model.path={folder}", "model.shapes={}")
    assert parameters.count(parameters.tensors(planned(config).models.shapes["policy"])) == 494_032_768
    config = loaded("llama-8b", f"model.shapes={{meta-llama/Llama-3.1-8B-Instruct: {folder}}}")
    assert planned(config).models.shapes["policy"].hidden == 896


def test_an_architecture_that_the_arithmetic_does_not_know_is_said(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    config = loaded("llama-8b", f"model.shapes={{meta-llama/Llama-3.1-8B-Instruct: {tmp_path}}}")
    assert "is of type mamba, and the arithmetic knows llama, mistral, qwen2 and qwen3" in planned(config).models.unknown[0]


def test_the_plan_of_a_run_without_a_critic_has_no_value_model():
    config = loaded("llama-8b", "ppo.advantages=group_relative", "ppo.responses_per_prompt=8")
    assert [need.role for need in planned(config).stages[-1].needs] == ["rollout", "reward", "reference", "policy"]


def test_an_adapter_needs_no_optimizer_state_of_the_base_and_no_reference():
    """LoRA of rank 16 on all linear layers of Llama 3.1 8B: 41.9 million numbers, as its users know it."""
    config = loaded("llama-8b", "policy.lora={}", "policy.workers=1", "policy.zero_stage=1")
    shape = planned(config).models.shapes["policy"]
    held = parameters.tensors(shape)
    assert parameters.count(list(adapters.trained(held, config.policy.lora))) == 41_943_040
    needs = {need.role: need for need in planned(config).stages[-1].needs}
    assert "reference" not in needs and 16.0 < needs["policy"].weights / GB < 16.3
    assert needs["policy"].optimizer == 12 * 41_943_040
    few = adapters.trained(held, LoraSection(rank=8, target_modules=["q_proj", "v_proj"]))
    assert parameters.count(list(few)) == 32 * 8 * (4096 + 4096 + 4096 + 1024)
