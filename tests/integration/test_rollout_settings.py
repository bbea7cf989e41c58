"""Settings of the engine that say how much it may do and hold at once, and what a real engine makes of them; its stream."""

import asyncio
import math
from types import SimpleNamespace

import numpy as np
import pytest

from scale_rlhf.config.schema import RolloutSection
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.rollout.engine import RolloutEngine
from scale_rlhf.rollout.gate import Gate
from tests.tiny import tiny_config, tiny_policy

LONG, LONGER, SHORT = 120, 180, 3  # response tokens


class WatchedEngine(RolloutEngine):
    """The engine, asked from inside its own process, so that no message on its way changes what is seen."""

    async def finishing_order(self, lengths: list[int]) -> list[int]:
        """Requests of those response lengths, made at once in this order: their places in the order in which they end."""
        order = []

        async def one(place: int) -> None:
            prompt = Prompt(place, place, np.asarray([260 + place, 270], np.int32))
            sample = await self.generate(prompt, max_tokens=lengths[place])
            assert len(sample.response_ids) == lengths[place]
            order.append(place)

        await asyncio.gather(*(one(place) for place in range(len(lengths))))
        return order

    async def ended_before_a_probe(self, drains: bool) -> int:
        """Of thirty samples, one at a time, those that have ended when a probe that is shown after them is answered."""
        self.gate = Gate(1 if drains else math.inf)  # as the engine makes it
        ended = []

        async def one(place: int) -> Sample:
            sample = await self.generate(Prompt(place, place, np.asarray([260, 270], np.int32)), max_tokens=LONG // 2)
            ended.append(place)
            return sample

        probe = await one(0)
        samples = [asyncio.create_task(one(place)) for place in range(30)]
        await asyncio.sleep(0)  # all have asked for a place
        logprobs, version = await self.score(probe)
        before = len(ended) - 1
        assert version == 0 and np.abs(logprobs - probe.logprobs).max() < 1e-4
        await asyncio.gather(*samples)
        return before

    async def cache(self) -> tuple[int, int]:
        """(blocks of the key-value cache, tokens of a block)."""
        settings = self.engine.vllm_config.cache_config
        return settings.num_gpu_blocks, settings.block_size


@pytest.fixture(scope="module")
def engines(cluster, tmp_path_factory):
    """Two engines of one model, by max_concurrent: (1, 0.02 GB of cache), (2, 0.05 GB)."""
    path = tiny_policy(tmp_path_factory.mktemp("model"))
    actor = cluster.remote(WatchedEngine).options(num_cpus=1, max_concurrency=100)
    made = {
        count: actor.remote(RolloutSection(max_concurrent=count, kv_cache_gb=cache, ignore_end=True), str(path), seed=0,
                            end_token_ids=[1], max_tokens=200, transfer="host")
        for count, cache in ((1, 0.02), (2, 0.05))
    }
    try:
        cluster.get([engine.start.remote() for engine in made.values()], timeout=240)
        yield made
    finally:
        cluster.get([engine.close.remote() for engine in made.values()], timeout=30)
        for engine in made.values():
            cluster.kill(engine)


def test_one_sample_at_a_time(cluster, engines):
    """max_concurrent 1: the short ones wait until the long one, asked for before them, has ended."""
    order = cluster.get(engines[1].finishing_order.remote([LONG, SHORT, SHORT, SHORT]), timeout=100)
    assert order == [0, 1, 2, 3]


def test_two_samples_at_a_time_and_no_third(cluster, engines):
    """max_concurrent 2: beside one long sample the short ones pass one by one; beside two none begins before one has ended."""
    order = cluster.get(engines[2].finishing_order.remote([LONG, SHORT, SHORT, SHORT]), timeout=100)
    assert order == [1, 2, 3, 0]
    order = cluster.get(engines[2].finishing_order.remote([LONG, LONGER, SHORT, SHORT]), timeout=100)
    assert order == [0, 2, 3, 1]


@pytest.mark.parametrize("drains", [False, True], ids=["in_flight", "drain"])
def test_a_probe_does_not_wait_behind_a_batch(cluster, engines, drains):
    """The next version waits for the probe of the one before: behind a batch it would come when no sample is left to span it."""
    assert cluster.get(engines[1].ended_before_a_probe.remote(drains), timeout=100) <= 3


def test_the_key_value_cache_has_the_size_that_was_asked_for(cluster, engines):
    shape = tiny_config()
    for count, asked in ((1, 0.02), (2, 0.05)):
        blocks, tokens = cluster.get(engines[count].cache.remote(), timeout=30)
        keys_and_values = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * 4  # bytes a token, float32
        assert blocks * tokens * keys_and_values == pytest.approx(asked * 2**30, rel=0.01)


def test_what_streams_in_is_the_beginning_of_the_whole(cluster, engines):
    prompt = Prompt(7, 7, np.asarray([260, 270], np.int32))
    growing = engines[2].stream.remote(prompt, max_tokens=12)
    parts = [list(cluster.get(part, timeout=30).response_ids) for part in growing]
    whole = list(cluster.get(engines[2].generate.remote(prompt, max_tokens=12), timeout=30).response_ids)
    assert parts[-1] == whole and len(whole) == 12 and len(parts) > 2
    assert all(part == whole[: len(part)] for part in parts) and [*map(len, parts)] == sorted({*map(len, parts)})


@pytest.mark.parametrize("cpu", [True, False], ids=["cpu", "a fake GPU platform"])
def test_a_gpu_engine_is_given_its_share_of_the_gpu(monkeypatch, cpu):
    """What vLLM is asked for; that it keeps to it on a GPU is not shown here."""
    import vllm.platforms

    monkeypatch.setattr(vllm.platforms, "current_platform", SimpleNamespace(is_cpu=lambda: cpu), raising=False)
    rollout = RolloutSection(gpu_memory_utilization=0.4, kv_cache_gb=0.5)
    engine = RolloutEngine(rollout, "model", seed=0, end_token_ids=[1], max_tokens=64, transfer="nccl")
    asked = {key: engine._arguments().get(key) for key in ("gpu_memory_utilization", "kv_cache_memory_bytes")}
    assert asked == {"gpu_memory_utilization": None if cpu else 0.4, "kv_cache_memory_bytes": 2**29 if cpu else None}
