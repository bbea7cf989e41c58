"""The arithmetic of memory against what is really held: by DeepSpeed ranks, by a sharded reference model, in vLLM's cache."""

import asyncio
import gc
import sys

import numpy as np
import pytest
import torch
from ray import cloudpickle

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.config.sizing import engine, parameters, shapes, training
from scale_rlhf.reference.server import ReferenceFleet
from scale_rlhf.training.batch import TrainingBatch
from scale_rlhf.training.group import TrainingGroup
from scale_rlhf.training.policy import PolicyWorker
from tests import tiny

cloudpickle.register_pickle_by_value(sys.modules[__name__])

RANKS = 2
BUCKETS = (500_000_000, 1_000_000)  # elements of DeepSpeed's, which are counted as buffers and not as states
SETTINGS = [
    {"dtype": "float32", "zero_stage": 0}, {"dtype": "float32", "zero_stage": 1}, {"dtype": "float32", "zero_stage": 2},
    {"dtype": "float32", "zero_stage": 3}, {"dtype": "bfloat16", "zero_stage": 1}, {"dtype": "bfloat16", "zero_stage": 2},
    {"dtype": "bfloat16", "zero_stage": 3}, {"dtype": "bfloat16", "zero_stage": 3, "weight_decay": 0.1},
    {"dtype": "bfloat16", "zero_stage": 2, "offload_optimizer": True},
    {"dtype": "bfloat16", "zero_stage": 3, "offload_optimizer": True},
]


def configuration(**section) -> RunConfig:
    ppo = {"steps": 10, "epochs": 1, "minibatches": 1, "tokens_per_microbatch": 24}
    return RunConfig(policy={"workers": RANKS, "cpus": 0.5, "gpus": 0} | section, ppo=ppo)


class Watched(PolicyWorker):
    """Counts what is held when the second micro-batch of the second update begins: Adam's moments and summed gradients too."""

    held: dict[str, int] | None = None

    def _forward(self, pack):
        self.forwards_made += 1
        if self.engine.global_steps == 1 and self.forwards_made == 2:
            self.held = self.count()
        return super()._forward(pack)

    def update(self, *arguments):
        self.forwards_made = 0
        return super().update(*arguments)

    def count(self) -> dict[str, int]:
        gc.collect()
        alive = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
        alive += [one.grad for one in alive if one.is_leaf and one.grad is not None]
        weights = list(self.engine.module.parameters())
        shards = [one.ds_tensor for one in weights if hasattr(one, "ds_tensor")]
        gathered = {one.data_ptr() for one in weights if hasattr(one, "ds_tensor") and one.numel()}
        sizes = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in alive
                 if one.untyped_storage().data_ptr() not in gathered and id(one) not in self.before}
        own = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in shards or weights}
        whole = sum(one.ds_numel for one in weights if getattr(one, "ds_persist", False))
        buckets = {size * element for size in BUCKETS for element in (2, 4)}
        everything = sum(size for size in sizes.values() if size not in buckets)
        return {"weights": sum(own.values()) + whole * weights[0].element_size(), "kept_whole": whole * weights[0].element_size(),
                "everything": everything}


class Bench(PolicyWorker):
    """Ranks that start again with other settings in the process group that they have: saves seconds a test."""

    def build(self) -> dict:
        return {}

    def held(self, config, batch, advantages) -> dict[str, int]:
        worker = Watched(config, self.path, self.rank, self.world)
        gc.collect()
        worker.before = {id(one) for one in gc.get_objects() if issubclass(type(one), torch.Tensor)}
        worker.build()
        for version in (0, 1):
            worker.update(batch, advantages, version)
        found, worker.engine = worker.held, None
        return found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.tiny_policy(tmp_path_factory.mktemp("policy"), vocabulary=2000, hidden=256, layers=4, tied=False, tokenizer=False)


@pytest.fixture(scope="module")
def group(cluster, model):
    tiny.tiny_tokenizer(model)
    made = TrainingGroup(configuration(), Bench, str(model))
    asyncio.run(made.start())
    yield made
    asyncio.run(made.close())


def batch(count: int = 12) -> tuple[TrainingBatch, list[np.ndarray]]:
    samples = tiny.samples(count, vocabulary=300)
    reference = [sample.logprobs for sample in samples]
    return TrainingBatch(samples, np.zeros(count, np.float32), reference, 0.1), [np.ones_like(one) for one in reference]


def held_tensors(model):
    return parameters.tensors(shapes.from_config(shapes.shipped(str(model)), "tiny"))


@pytest.mark.parametrize("section", SETTINGS, ids=lambda section: " ".join(map(str, section.values())))
def test_a_rank_holds_what_the_arithmetic_says(group, model, section):
    config = configuration(**section)
    found = asyncio.run(group.call("held", config, *batch(), seconds=200, what="a test"))
    states = training.states(config.policy, RANKS, held_tensors(model))
    # The last gradient that ZeRO 1 and 2 sent, and with offload the place where one waits, are among what counts as buffers.
    waiting = training.element(config.policy) * parameters.largest(held_tensors(model)) * (2 if states.host else 1)
    kept = config.policy.zero_stage in (1, 2) and section != {"dtype": "bfloat16", "zero_stage": 1}
    expected = states.weights + states.gradients + states.optimizer + states.host + (waiting if kept else 0)
    for rank in found:  # with offload all of it is in the same memory here
        assert rank["weights"] == states.weights
        assert rank["everything"] + rank["kept_whole"] == pytest.approx(expected, rel=0.01)


def test_a_sharded_reference_holds_what_the_arithmetic_says(cluster, model):
    tiny.tiny_tokenizer(model)
    config = RunConfig(reference={"workers": RANKS, "cpus": 0.5})
    fleet = ReferenceFleet(config, str(model))
    try:
        asyncio.run(fleet.start())
        assert fleet.parameters[0] == [training.partition(held_tensors(model), RANKS)] * RANKS
    finally:
        fleet.close()


@pytest.mark.parametrize(("name", "ranks"), [("llama-3.1-8b", 1), ("llama-3.1-70b", 4), ("llama-3.1-405b", 8), ("qwen2.5-7b", 4)])
def test_the_cache_of_a_sequence_is_vllms(name, ranks):
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    shape, tokens = shapes.from_config(shapes.shipped(name), name), 2049
    heads = max(1, shape.key_value_heads // ranks)
    spec = FullAttentionSpec(block_size=engine.BLOCK, num_kv_heads=heads, head_size=shape.head_size, dtype=torch.bfloat16)
    blocks = -(-tokens // engine.BLOCK)
    assert engine.longest_cache(shape, ranks, 2, tokens) == shape.layers * blocks * spec.page_size_bytes
