"""Parameters and ZeRO's shares by arithmetic, against models on torch's meta device and DeepSpeed's own estimates."""

import pytest
import torch

from scale_rlhf.config.roles import TrainedRole
from scale_rlhf.config.sizing import parameters, shapes, training

NAMES = shapes.names()


def on_meta(name: str, head: str):
    """The model of a shipped config.json, without memory."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(shapes.SHIPPED / name)
    if head == "scalar":
        config.num_labels = 1
    kind = AutoModelForCausalLM if head == "language" else AutoModelForSequenceClassification
    with torch.device("meta"):
        return kind.from_config(config, dtype=torch.bfloat16)


@pytest.mark.parametrize("head", ["language", "scalar"])
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_the_meta_device(name, head):
    model = on_meta(name, head)
    ours = parameters.tensors(shapes.from_config(shapes.shipped(name), name), head)
    expected: dict[tuple[str, tuple[int, ...]], int] = {}
    for key, parameter in model.named_parameters():
        pattern = ".".join("*" if part.isdigit() else part for part in key.split("."))
        expected[pattern, tuple(parameter.shape)] = expected.get((pattern, tuple(parameter.shape)), 0) + 1
    assert {(tensor.name, tensor.shape): tensor.times for tensor in ours} == expected
    assert parameters.count(ours) == model.num_parameters()
    assert 2 * parameters.count(ours) == sum(p.numel() * p.element_size() for p in model.parameters())


def test_biases_of_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 100,
             "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    ours = parameters.tensors(shapes.from_config(sizes | {"model_type": "llama"}, "biased"))
    assert parameters.count(ours) == model.num_parameters()


@pytest.mark.parametrize("workers", [1, 3, 8, 24])
def test_zero_against_deepspeeds_estimates(workers):
    """Weights, float32 gradients and Adam: 18 bytes a parameter, of which ZeRO 3 shares all and ZeRO 2 all but the weights."""
    import math

    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    held = parameters.tensors(shapes.from_config(shapes.shipped("llama-3.1-8b"), "llama-3.1-8b"))
    total, role = parameters.count(held), TrainedRole(dtype="bfloat16", zero_stage=3, workers=workers)
    ours = training.states(role, workers, held)
    _, theirs, largest = estimate_zero3_model_states_mem_needs(total, 0, workers, 1, cpu_offload=False)
    whole = sum(tensor.size * tensor.times for tensor in held if tensor.size <= 10 * 4096)  # kept on every rank
    assert largest == 0 and ours.weights + ours.gradients + ours.optimizer - 2 * whole == pytest.approx(theirs, rel=1e-6)

    role.zero_stage = 2
    ours = training.states(role, workers, held)
    _, theirs = estimate_zero2_model_states_mem_needs(total, workers, 1, cpu_offload=False)
    twice = math.ceil(2 * total / workers)  # they count bfloat16 gradients beside those in float32; those are in our buckets
    assert ours.weights + ours.gradients + ours.optimizer == pytest.approx(theirs - twice, rel=1e-6)


def test_zero_1_and_2_fill_up_to_whole_shares():
    held = parameters.tensors(shapes.from_config(shapes.shipped("qwen2.5-0.5b"), "x"))
    total, role = parameters.count(held), TrainedRole(dtype="float32", zero_stage=1, workers=7)
    filled = -(-total // 14) * 14
    assert filled > total
    assert training.states(role, 7, held).weights == 4 * filled
    assert training.states(role, 7, held).optimizer == 12 * filled // 7
