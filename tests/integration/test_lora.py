"""LoRA without engines: what is trained, what is added to which weight, what stands on disk."""

import asyncio
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from scale_rlhf.config.checks import check
from scale_rlhf.config.resources import asks
from scale_rlhf.config.roles import LoraSection, SupervisedLora
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.config.unused import noted
from scale_rlhf.errors import ConfigError, RunError
from scale_rlhf.experience.packing import pack
from scale_rlhf.models import loading, lora
from scale_rlhf.models.forward import response_logprobs, sample_scores
from scale_rlhf.reference.one_base import PolicyWithoutAdapter
from scale_rlhf.training.group import PolicyGroup
from scale_rlhf.weights.adapter import Adapter, merged
from scale_rlhf.weights.choice import backend
from scale_rlhf.weights.files import tensors
from scale_rlhf.weights.manifest import Manifest, lay_out, merge
from scale_rlhf.weights.publisher import WholeWeights
from tests.tiny import samples, tiny_classifier, tiny_policy

CPU = torch.device("cpu")
SMALL = LoraSection(rank=3, alpha=6)
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request, tmp_path_factory):
    return str(tiny_policy(tmp_path_factory.mktemp("model"), tied=request.param))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """Keeps its matrices as [inputs, outputs], and saves without the first part of its names, as the hub's does."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("gpt2")
    model = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=64, n_layer=2, n_head=2, n_positions=64, bos_token_id=1,
                                       eos_token_id=1))
    model.save_pretrained(place, state_dict={name.removeprefix("transformer."): tensor.clone()
                                             for name, tensor in model.state_dict().items() if name != "lm_head.weight"})
    return str(place)


def adapted(path: str, section: LoraSection = SMALL, seed: int = 0):
    """A model with an adapter that does something."""
    model = loading.load_causal(path)
    lora.adapt(model, section, "policy.lora", seed)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    return model


def logprobs(model) -> torch.Tensor:
    with torch.no_grad():
        return response_logprobs(model, pack(samples(4)), 1.0)[0]


def published(model) -> dict[str, torch.Tensor]:
    """What travels, by its name."""
    weights = WholeWeights(model, None, lora.adapter(model))
    names = [name for name, *_ in weights.metadata()]
    shapes = [shape for _, _, shape, _ in weights.metadata()]
    return {names[place]: flat.view(shapes[place]) for place, flat, _ in weights.share(0, 1)}


def test_a_fresh_adapter_changes_nothing_and_is_all_that_is_trained(folder):
    model, plain = loading.load_causal(folder), loading.load_causal(folder)
    lora.adapt(model, SMALL, "policy.lora", seed=0)
    assert torch.equal(logprobs(model), logprobs(plain))
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert len(trained) == 2 * 2 * len(PROJECTIONS) and all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert {name.split(".")[-4] for name in trained} == PROJECTIONS
    again, other = (adapted(folder, seed=seed).state_dict() for seed in (0, 1))
    key = next(name for name in trained if ".lora_A." in name)
    assert torch.equal(model.state_dict()[key], again[key]) and not torch.equal(again[key], other[key])


def test_what_travels_is_the_adapter_and_gives_the_trained_model(folder):
    model, plain = adapted(folder), loading.load_causal(folder)
    matrices = published(model)
    assert sum(one.numel() for one in matrices.values()) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    state = dict(merged(tensors(folder), matrices.items(), lora.adapter(model), CPU))
    plain.load_state_dict(state, strict=False)
    assert (logprobs(plain) - logprobs(model)).abs().max() < 1e-5
    assert (logprobs(loading.load_causal(folder)) - logprobs(model)).abs().max() > 0.1


def test_each_version_is_added_to_the_base(folder):
    """W₀ + alpha/rank · B·A by hand, in bfloat16 too: rounded once."""
    model = adapted(folder)
    name, base = "model.layers.1.mlp.down_proj.weight", dict(tensors(folder))
    for dtype in (torch.float32, torch.bfloat16):
        start = {key: one.to(dtype) for key, one in base.items()}
        found = dict(merged(start.items(), published(model).items(), lora.adapter(model), CPU))
        a, b = (published(model)[f"model.layers.1.mlp.down_proj.lora_{side}.default.weight"] for side in "AB")
        assert torch.equal(found[name], start[name].float() + 2.0 * (b @ a))
        assert torch.equal(found["model.norm.weight"], start["model.norm.weight"]) and list(found) == list(start)


def test_without_its_adapter_a_model_is_its_base(folder):
    model = adapted(folder)
    with_adapter = logprobs(model)
    with lora.without_adapter(model):
        assert torch.equal(logprobs(model), logprobs(loading.load_causal(folder)))
    assert torch.equal(logprobs(model), with_adapter)
    assert {name for name, one in model.named_parameters() if one.requires_grad} == set(published(model))


def test_gpt2(gpt2):
    model, plain = adapted(gpt2), loading.load_causal(gpt2)
    matrices, names = published(model), lora.adapter(model).transposed
    assert "transformer.h.0.attn.c_proj.weight" in names and len(matrices) == 2 * len(names)
    for name, tensor in merged(tensors(gpt2), matrices.items(), lora.adapter(model), CPU):
        plain.state_dict()[f"transformer.{name}"].copy_(tensor)
    assert (logprobs(plain) - logprobs(model)).abs().max() < 1e-5


def test_another_base_is_an_error(folder):
    model = adapted(folder)
    base = [(name, tensor) for name, tensor in tensors(folder) if "layers.1.mlp" not in name]
    with pytest.raises(RunError, match="came for model.layers.1.mlp.(gate|up|down)_proj.weight and 2 more tensors"):
        list(merged(base, published(model).items(), lora.adapter(model), CPU))


def test_on_disk_there_is_the_whole_model_and_pefts_folder(folder, tmp_path):
    from peft import PeftModel

    model = adapted(folder, LoraSection(rank=4, alpha=4, target_modules=["q_proj", "v_proj"]))
    exported = lora.export(model, folder)
    loading.save(model, tmp_path / "m", state=exported.weights, tokenizer_from=folder)
    lora.write(exported, tmp_path / "m" / lora.FOLDER)
    assert set(load_file(tmp_path / "m" / "model.safetensors")) == {name for name, _ in tensors(folder)}
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    beside = PeftModel.from_pretrained(loading.load_causal(folder), tmp_path / "m" / lora.FOLDER)
    for one in (whole, beside):
        assert (logprobs(one) - logprobs(model)).abs().max() < 1e-5
    assert beside.peft_config["default"].base_model_name_or_path == folder


def test_a_classifiers_head_is_trained_whole(tmp_path):
    from peft import PeftModel

    path = str(tiny_classifier(tmp_path / "start"))
    model = loading.load_scalar(path)
    lora.adapt(model.classifier, SMALL, "value.lora", seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_A" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    exported = lora.export(model.classifier, path)
    assert "base_model.model.score.weight" in exported.adapter
    loading.save(model, tmp_path / "m", state=exported.weights)
    lora.write(exported, tmp_path / "m" / lora.FOLDER)
    rows = pack(samples(4))
    start = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
    beside = type(model)(PeftModel.from_pretrained(start, tmp_path / "m" / lora.FOLDER).get_base_model())
    with torch.no_grad():
        expected = sample_scores(model, rows)
        for one in (loading.load_scalar(str(tmp_path / "m")), beside):
            assert torch.allclose(sample_scores(one, rows), expected, atol=1e-5)
        assert not torch.allclose(sample_scores(loading.load_scalar(path), rows), expected, atol=1e-2)


@pytest.mark.parametrize(("target", "says"), [
    ("q_porj", "q_porj is no linear layer .* did you mean q_proj?"), ("lm_head", "lm_head is no linear layer"),
    ("embed_tokens", "embed_tokens is no linear layer"), ("norm", "There are down_proj, gate_proj, k_proj"),
])
def test_what_cannot_be_adapted_is_named(folder, target, says):
    with pytest.raises(ConfigError, match=f"sft.lora.target_modules: .*{says}"):
        lora.adapt(loading.load_causal(folder), SupervisedLora(target_modules=["v_proj", target]), "sft.lora", 0)


def test_a_manifest_of_several_ranks_keeps_how_matrices_are_added():
    places, _ = lay_out([])
    parts = [Manifest(1, "x", places, [], adapter=Adapter(2.0, ["w"])) for _ in range(2)]
    assert merge(parts).adapter == Adapter(2.0, ["w"]) and merge(parts).update_info()["adapter"]["scaling"] == 2.0


def test_the_adapter_goes_through_host_memory_to_gpus_too():
    gpus = {"engines": 1, "gpus": 1.0}
    assert backend(RunConfig(rollout=gpus)) == "nccl" and backend(RunConfig(rollout=gpus, policy={"lora": {}})) == "host"
    with pytest.raises(ConfigError, match="rollout.weight_transfer: with policy.lora"):
        backend(RunConfig(rollout=gpus | {"weight_transfer": "nccl"}, policy={"lora": {}}))


@pytest.mark.parametrize(("sections", "serves"), [
    ({}, False), ({"policy": {"lora": {}}}, True), ({"policy": {"lora": {}}, "reference": {"model": "x"}}, False),
])
def test_one_base_needs_no_process_for_the_reference(sections, serves):
    config = RunConfig(**sections)
    assert ("reference" not in {ask.role for ask in asks(config, "ppo")}) is serves
    config.reference.replicas = 2
    assert any("reference.replicas: not used in ppo" in note for note in noted(config)) is serves


def test_what_the_reference_did_is_counted_since_the_last_time():
    class Policy:
        async def reference_logprobs(self, batch):
            return [one.logprobs for one in batch], 0.25

    reference, batch = PolicyWithoutAdapter(Policy()), samples(3)
    assert asyncio.run(reference.logprobs(batch, fixed=True, group=0))[2] is batch[2].logprobs
    asyncio.run(reference.logprobs(batch[:1], fixed=True, group=1))
    found = asyncio.run(reference.metrics())
    assert (found["samples"], found["busy_seconds"]) == (4, 0.5) and found["tokens"] == sum(b.tokens for b in [*batch, batch[0]])
    assert asyncio.run(reference.metrics()) == dict.fromkeys(found, 0.0)


def test_what_cannot_go_with_an_adapter_is_refused():
    for rollout, says in (({"verify_weights": True}, "rollout.verify_weights: it compares whole weights"),
                          ({"weight_transfer": "nccl", "gpus": 1.0}, "rollout.weight_transfer: with policy.lora")):
        config = RunConfig(rollout=rollout, policy={"lora": {}})
        with pytest.raises(ConfigError, match=says):
            check(config, ["ppo"], starts=False)
    with pytest.raises(ValidationError, match="dropout"):
        RunConfig(policy={"lora": {"dropout": 0.1}})  # a policy's ratio would be against another network


def test_ranks_are_called_one_after_another_and_closing_does_not_wait():
    """Collectives of an update and of the reference's log-probabilities must come in one order on all ranks."""
    begun, ended = [], asyncio.Event()

    class Rank:
        def __getattr__(self, method):
            async def answer(*arguments):
                begun.append(method)
                if method == "update":
                    await ended.wait()
                return ["found", 0.0]

            return SimpleNamespace(remote=answer)

    async def run():
        group = PolicyGroup(RunConfig(policy={"lora": {}, "workers": 2}), "x")
        group.workers = [Rank(), Rank()]
        update = asyncio.ensure_future(group.call("update", seconds=10, what="an update"))
        reference = asyncio.ensure_future(group.reference_logprobs(samples(1)))
        await asyncio.sleep(0.01)
        assert begun == ["update"] * 2
        ended.set()
        await asyncio.gather(update, reference)
        assert begun == ["update"] * 2 + ["reference_logprobs"] * 2
        ended.clear()
        stuck = asyncio.ensure_future(group.call("update", seconds=10, what="an update"))
        await asyncio.sleep(0.01)
        await group._call("close", seconds=1, what="closing")
        stuck.cancel()

    asyncio.run(run())
