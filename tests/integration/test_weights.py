"""A version from real DeepSpeed ranks to real engines: every way it can take, while they decode, and what must be noticed."""

import asyncio
import sys

import numpy as np
import pytest
import torch
from ray import cloudpickle

from scale_rlhf.config.schema import OverlapSection, RunConfig
from scale_rlhf.errors import RunError
from scale_rlhf.experience.packing import pack
from scale_rlhf.experience.sample import Prompt
from scale_rlhf.models.forward import response_logprobs
from scale_rlhf.rollout.engine import RolloutEngine
from scale_rlhf.rollout.fleet import RolloutFleet
from scale_rlhf.training.batch import TrainingBatch
from scale_rlhf.training.group import PolicyGroup
from scale_rlhf.training.policy import PolicyWorker
from scale_rlhf.weights.manifest import Manifest
from scale_rlhf.weights.shared_memory import SharedMemoryPublisher
from scale_rlhf.weights.verify import fingerprint
from tests.tiny import samples, tiny_policy

cloudpickle.register_pickle_by_value(sys.modules[__name__])

LIMIT = 1e-4  # nats, fp32
OPTIONS = {"num_cpus": 0.5}


class Engine(RolloutEngine):
    """Takes other settings, and faults, without starting again."""

    def _arguments(self) -> dict:
        return super()._arguments() | {"worker_extension_cls": "tests.integration.faulty_worker.FaultyExtension"}

    async def verifying(self, verify: bool) -> None:
        self.rollout.verify_weights = verify

    async def set(self, overlap: OverlapSection) -> None:
        started = self.engine if hasattr(self, "engine") else None
        self.__init__(self.rollout, self.model, seed=self.seed, end_token_ids=self.end_token_ids, max_tokens=self.max_tokens,
                      transfer=self.transfer, overlap=overlap, who=self.name)
        self.engine = started

    async def fault(self, method: str, *arguments) -> None:
        await self.engine.collective_rpc(method, args=arguments)


class Fleet(RolloutFleet):
    actor = Engine

    async def set(self, **overlap) -> None:
        self.config.overlap = OverlapSection(**overlap)
        await self._each("set", self.config.overlap, seconds=10, what="set")

    async def fault(self, *arguments) -> None:
        await self._each("fault", *arguments, seconds=10, what="fault")


class Ranks(PolicyWorker):
    """Ranks that start again with other settings in the process group that they have."""

    def build(self) -> dict:
        return {}

    def again(self, config: RunConfig) -> None:
        if self.publisher is not None:
            self.publisher.close()
        self.config, self.section = config, config.policy
        PolicyWorker.build(self)


class Policy(PolicyGroup):
    def __init__(self, config: RunConfig, path: str):
        super().__init__(config, path)
        self.worker = Ranks

    async def again(self, config: RunConfig) -> None:
        self.config = config
        await self.call("again", config, seconds=60, what="again")


class Trainer:
    """A plain model that stands for the learner: publishes itself, and remembers every version."""

    def __init__(self, path, tag: str):
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.publisher, self.version, self.versions = SharedMemoryPublisher(tag), 0, {}

    def publish(self) -> tuple[int, dict]:
        """A new version, with other weights than the last."""
        self.version += 1
        torch.manual_seed(self.version)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        self.versions[self.version] = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        named = list(self.model.named_parameters())
        metadata = [(name, "float32", tuple(p.shape), 4 * p.numel()) for name, p in named]
        manifest = self.publisher.publish(self.version, named, metadata)
        numbers = {name: fingerprint(p.reshape(-1), tuple(p.shape), torch.float32) for name, p in named}
        whole = Manifest(manifest.version, manifest.path, manifest.tensors, manifest.pieces, numbers)
        return self.version, whole.update_info()

    def logprobs(self, sample) -> np.ndarray:
        """Of each token, by the version that it was sampled from."""
        expected = np.full(len(sample.versions), np.nan, dtype=np.float32)
        for version in set(sample.versions.tolist()):
            self.model.load_state_dict(self.versions[version])
            with torch.no_grad():
                found = response_logprobs(self.model, pack([sample]), 1.0)[0].numpy()
            expected = np.where(sample.versions == version, found, expected)
        self.model.load_state_dict(self.versions[self.version])
        return expected


def configuration(workers: int = 1, zero_stage: int = 0, transfer: str = "auto", engines: int = 1, tensor_parallel: int = 1):
    return RunConfig(
        policy={"workers": workers, "cpus": 0.5, "zero_stage": zero_stage, "learning_rate": 0.02},
        rollout={"engines": engines, "tensor_parallel": tensor_parallel, "max_concurrent": 16, "kv_cache_gb": 0.05,
                 "max_response_tokens": 200, "ignore_end": True, "verify_weights": True, "weight_transfer": transfer},
        data={"max_prompt_tokens": 40}, ppo={"epochs": 1, "minibatches": 1},
        limits={"publish_seconds": 60, "start_seconds": 200, "generate_seconds": 100},
    )


def prompts(count: int, first: int) -> list[Prompt]:
    random = np.random.default_rng(first)
    return [Prompt(first + i, first + i, random.integers(264, 300, 5 + i % 7).astype(np.int32)) for i in range(count)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{tied: folder}"""
    return {tied: str(tiny_policy(tmp_path_factory.mktemp("model") / str(tied), tied=tied)) for tied in (True, False)}


@pytest.fixture(scope="module")
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def started(cluster, models, loop):
    """Two engines of the tied model, one of the untied, one and two ranks of the policy: all started side by side."""
    fleets = {True: Fleet(configuration(engines=2), models[True], [1]), False: Fleet(configuration(), models[False], [1])}
    policies = {workers: Policy(configuration(workers), models[True]) for workers in (1, 2)}

    async def start():
        await asyncio.gather(fleets[True].start([OPTIONS] * 2), fleets[False].start([OPTIONS]),
                             *(policy.start() for policy in policies.values()))

    async def close():
        await asyncio.gather(*(one.close() for one in [*fleets.values(), *policies.values()]))

    loop.run_until_complete(start())
    yield fleets, policies
    loop.run_until_complete(close())


@pytest.fixture
def fleets(started, loop):
    """{tied: fleet}, with default settings."""
    for fleet in started[0].values():
        loop.run_until_complete(fleet.set())
        loop.run_until_complete(fleet.spans())
    return started[0]


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def pair(request, fleets, models):
    """A fleet, and a trainer of the same model."""
    trainer = Trainer(models[request.param], f"weights-{request.param}")
    yield fleets[request.param], trainer
    trainer.publisher.close()


def worst_gap(trainer: Trainer, batch) -> float:
    return max(float(np.abs(trainer.logprobs(sample) - sample.logprobs).max()) for sample in batch)


async def agrees(policy: PolicyGroup, fleet: RolloutFleet, version: int) -> None:
    """Every engine's log-probabilities are the trainer's, and of that version."""
    batch = await fleet.probe(prompts(2, first=100 * version), 12)
    for sample, expected in zip(batch, await policy.logprobs(batch), strict=True):
        assert set(sample.versions) == {version}
        assert np.abs(sample.logprobs - expected).max() < LIMIT


async def publish_twice(policy: PolicyGroup, fleet: RolloutFleet, transfer: str, version: int) -> int:
    """An optimizer step and its version, two times."""
    tag = f"test-{version}-{transfer}"
    await policy.open_transport(transfer, tag, fleet.engines, fleet.config.rollout.tensor_parallel)
    fleet.open_transport(transfer)
    for _ in range(2):
        batch = samples(4, seed=version)
        training = TrainingBatch(batch, np.zeros(4, np.float32), [one.logprobs for one in batch], 0.0)
        await policy.update(training, [np.ones(len(one.logprobs), np.float32) for one in batch], version)
        version += 1
        info = await policy.publish(version)
        times = await fleet.load(version, info)
        assert set(times) == {"stage_seconds", "stopped_seconds", "load_seconds", "published_bytes"}
        assert (info["path"] is None) == (transfer == "network") and len(info["fingerprints"]) == len(info["tensors"])
        await agrees(policy, fleet, version)
    return version


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_version_reaches_every_engine(started, fleets, loop, workers, zero_stage):
    policy, fleet = started[1][workers], fleets[True]
    loop.run_until_complete(policy.again(configuration(workers, zero_stage)))
    version = 10 * (1 + workers + 3 * zero_stage)
    for transfer in ("shared_memory", "network"):
        version = loop.run_until_complete(publish_twice(policy, fleet, transfer, version))


LORA = {"rank": 4, "alpha": 16}
MATRICES = 2 * 4 * (128 + 96 + 96 + 128 + 192 + 192 + 192)  # 2 layers, rank 4, inputs + outputs: q, k, v, o, gate, up, down


@pytest.mark.parametrize(("workers", "zero_stage", "transfer"), [
    (1, 0, "shared_memory"), (2, 3, "network"), pytest.param(2, 2, "shared_memory", marks=pytest.mark.long),
])
def test_an_adapter_alone_reaches_every_engine(started, fleets, loop, workers, zero_stage, transfer):
    """Also one that has seen none of the versions before."""
    policy, fleet, config = started[1][workers], fleets[True], configuration(workers, zero_stage)
    config.policy.lora, config.rollout.verify_weights = LORA, False
    version, batch = 1000 * (1 + workers + 3 * zero_stage) + (500 if transfer == "network" else 0), samples(4, seed=1)
    training = TrainingBatch(batch, np.zeros(4, np.float32), [one.logprobs for one in batch], 0.0)

    async def make(version: int) -> dict:
        await policy.update(training, [np.ones(len(one.logprobs), np.float32) for one in batch], version - 1)
        return await policy.publish(version)

    async def run():
        await policy.again(config)
        await fleet._each("verifying", False, seconds=10, what="set")
        await policy.open_transport(transfer, f"test-lora-{version}", fleet.engines, 1)
        before = await policy.logprobs(batch)
        first = await make(version + 1)
        await fleet._call(0, "load", version + 1, first, seconds=60, what="load")
        second = await make(version + 2)
        times = await fleet.load(version + 2, second)
        await agrees(policy, fleet, version + 2)
        assert times["published_bytes"] == 4 * MATRICES and first["adapter"]["scaling"] == 4.0
        moved = [np.abs(one - other).max() for one, other in zip(before, await policy.logprobs(batch), strict=True)]
        assert max(moved) > 30 * LIMIT  # engines that had stayed as they were would be found out
        await fleet._each("verifying", True, seconds=10, what="set")

    loop.run_until_complete(run())


async def decode_through_updates(fleet: Fleet, trainer: Trainer, updates: int, tokens: int = 190) -> list:
    """Long responses, during which versions arrive."""
    await fleet.load(*trainer.publish())
    first = 1000 * trainer.version
    running = [asyncio.ensure_future(fleet.generate(prompt, max_tokens=tokens)) for prompt in prompts(12, first)]
    for update in range(updates):
        await fleet.probe(prompts(1, first + 100 + update), 12)  # some tokens in
        await fleet.load(*trainer.publish())
    return await asyncio.gather(*running)


def test_long_responses_go_on_in_flight_with_each_tokens_version_right(pair, loop):
    fleet, trainer = pair
    batch = loop.run_until_complete(decode_through_updates(fleet, trainer, 3))
    assert max(len(set(sample.versions.tolist())) for sample in batch) >= 3
    assert all((np.diff(sample.versions) >= 0).all() and len(sample.versions) == 190 for sample in batch)
    assert worst_gap(trainer, batch) < LIMIT


def test_with_the_old_cache_versions_are_right_and_later_tokens_are_not_the_trainers(pair, loop):
    fleet, trainer = pair
    loop.run_until_complete(fleet.set(recompute_cache=False))
    batch = loop.run_until_complete(decode_through_updates(fleet, trainer, 2))
    first = {int(sample.versions[0]) for sample in batch}
    assert max(len(set(sample.versions.tolist())) for sample in batch) >= 2
    assert worst_gap(trainer, batch) > 0.01
    for sample in batch:
        own = sample.versions == sample.versions[0]
        assert np.abs(trainer.logprobs(sample) - sample.logprobs)[own].max() < LIMIT
    assert len(first) == 1


def test_drained_samples_have_one_version(fleets, models, loop):
    fleet, trainer = fleets[True], Trainer(models[True], "weights-drain")
    loop.run_until_complete(fleet.set(weight_update="drain"))

    async def run():
        await fleet.load(*trainer.publish())
        running = [asyncio.ensure_future(fleet.generate(prompt, max_tokens=30 + 2 * i))
                   for i, prompt in enumerate(prompts(48, 5000))]  # more than can decode at once
        while not (await fleet.metrics())["waiting"]:  # by then all places are taken
            await asyncio.sleep(0.01)
        await fleet.load(*trainer.publish())
        return await asyncio.gather(*running)

    batch = loop.run_until_complete(run())
    trainer.publisher.close()
    assert all(len(set(sample.versions.tolist())) == 1 for sample in batch)
    assert {int(sample.versions[0]) for sample in batch} == {1, 2}
    assert worst_gap(trainer, batch) < LIMIT


def test_engines_take_turns(fleets, models, loop):
    fleet, trainer = fleets[True], Trainer(models[True], "weights-turns")
    loop.run_until_complete(fleet.set(update_wave=1))
    loop.run_until_complete(decode_through_updates(fleet, trainer, 2, tokens=120))
    lanes = loop.run_until_complete(fleet.spans())
    trainer.publisher.close()
    assert set(lanes) == {"rollout/engine-0", "rollout/engine-1"}
    loads = [[span for span in spans if span.name == "load"] for spans in lanes.values()]
    assert [span.details["version"] for span in loads[0]] == [1, 2, 3]
    assert all(one.end <= other.start or other.end <= one.start for one in loads[0] for other in loads[1])
    for spans in lanes.values():
        stopped = [span for span in spans if span.name == "load"]
        assert any(span.name == "stage" for span in spans)
        for span in spans:
            assert span.name != "decode" or all(span.end <= load.start or load.end <= span.start for load in stopped)


def test_a_damaged_byte_is_named(pair, loop):
    fleet, trainer = pair
    version, info = trainer.publish()
    place = next(place for place in info["tensors"] if place["name"] == "model.layers.1.mlp.up_proj.weight")
    overwrite(info["path"], place["offset"] + 1001, b"\x55\xaa")
    with pytest.raises(RunError, match=r"rollout engine \d: weights: model.layers.1.mlp.up_proj.weight in /dev/shm/.*checksum"):
        loop.run_until_complete(fleet.load(version, info))
    loop.run_until_complete(fleet.load(*trainer.publish()))


@pytest.mark.parametrize("name", [
    "model.layers.0.self_attn.k_proj.weight", "model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight",
    "model.layers.1.self_attn.q_norm.weight", "model.norm.weight",
])
def test_a_tensor_that_changed_after_its_checksum_is_named(fleets, models, loop, name):
    fleet, trainer = fleets[False], Trainer(models[False], "weights-changed")
    version, info = trainer.publish()
    place = next(place for place in info["tensors"] if place["name"] == name)

    async def run():
        await fleet._each("stage", version, info, seconds=10, what="stage")
        overwrite(info["path"], place["offset"], bytes(place["size"] // 8))  # zeros
        await fleet._each("take", version, seconds=10, what="take")

    with pytest.raises(RunError, match=f"rollout engine 0: after the update to version {version}: {name} is not the learner's"):
        loop.run_until_complete(run())
    loop.run_until_complete(fleet.load(*trainer.publish()))
    trainer.publisher.close()


def test_a_layer_that_computes_something_else_is_named(pair, loop):
    fleet, trainer = pair
    loop.run_until_complete(fleet.fault("bend_after_load", "model.layers.0.self_attn.o_proj", 1.0001))
    try:
        with pytest.raises(RunError, match="o_proj.weight is not the learner's"):
            loop.run_until_complete(fleet.load(*trainer.publish()))
    finally:
        loop.run_until_complete(fleet.fault("bend_after_load", None))
    loop.run_until_complete(fleet.load(*trainer.publish()))


def test_an_old_output_head_is_noticed(fleets, models, loop):
    fleet, trainer = fleets[True], Trainer(models[True], "weights-head")
    loop.run_until_complete(fleet.fault("keep_old_heads", True))
    try:
        with pytest.raises(RunError, match="lm_head.weight, which should be model.embed_tokens.weight is not the learner's"):
            loop.run_until_complete(fleet.load(*trainer.publish()))
    finally:
        loop.run_until_complete(fleet.fault("keep_old_heads", False))
        loop.run_until_complete(fleet.load(*trainer.publish()))
        trainer.publisher.close()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_tensor_parallel_engines(cluster, models, loop):
    """Two ranks on two cores spin against each other: slow, so once."""
    fleet = Fleet(configuration(tensor_parallel=2), models[True], [1])
    policy = Policy(configuration(2, 3), models[True])

    async def close():
        await asyncio.gather(fleet.close(), policy.close())

    async def run():
        await asyncio.gather(fleet.start([OPTIONS]), policy.start())
        await policy.again(configuration(2, 3))
        version = 0
        for transfer in ("shared_memory", "network"):
            version = await publish_twice(policy, fleet, transfer, version)
        await fleet.fault("keep_old_heads", True)
        with pytest.raises(RunError, match="lm_head.weight, which should be"):
            await publish_twice(policy, fleet, "shared_memory", version)

    try:
        loop.run_until_complete(run())
    finally:
        loop.run_until_complete(close())


def overwrite(path: str, offset: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(content)
