"""Publishing without vLLM and Ray: manifests, shares, checksums, the network, fingerprints, gates."""

import asyncio
import math
import socket
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError, RunError
from scale_rlhf.rollout.balance import Balance
from scale_rlhf.rollout.gate import DecodeClock, Gate
from scale_rlhf.telemetry.spans import Spans
from scale_rlhf.weights import copying, verify
from scale_rlhf.weights.choice import backend, transport
from scale_rlhf.weights.manifest import Manifest, Piece, lay_out, merge, shares
from scale_rlhf.weights.network import Fetcher, Server
from scale_rlhf.weights.publisher import WholeWeights
from scale_rlhf.weights.shared_memory import Reader, SharedMemoryPublisher

LOOPBACK = "127.0.0.1"
METADATA = [("a", "float32", (3, 5), 60), ("b", "bfloat16", (7,), 14), ("c", "float32", (2, 2), 16)]


def part(*pieces, version=1):
    return Manifest(version, "x", lay_out(METADATA)[0], [Piece(offset, size, 0) for offset, size in pieces])


def test_tensors_start_on_cache_lines():
    places, size = lay_out(METADATA)
    assert [place.offset for place in places] == [0, 64, 128] and size == 192


def test_parts_of_several_ranks_make_one_manifest():
    whole = merge([part((128, 16), (0, 32)), part((32, 28), (64, 14))])
    assert [piece.offset for piece in whole.pieces] == [0, 32, 64, 128]
    assert merge([whole]) == whole


@pytest.mark.parametrize(("pieces", "message"), [
    ([(0, 32), (64, 14), (128, 16)], "a are missing, from byte 32"),
    ([(0, 60), (32, 28), (64, 14), (128, 16)], "were written twice"),
    ([(0, 60), (64, 14)], "c are missing"),
    ([(0, 60), (64, 14), (128, 16), (144, 4)], "more was written"),
])
def test_a_part_that_is_missing_is_named(pieces, message):
    with pytest.raises(RunError, match=message):
        merge([part(*pieces)])


def test_ranks_of_different_versions_are_an_error():
    with pytest.raises(RunError, match="versions"):
        merge([part((0, 60)), part((64, 14), (128, 16), version=2)])


def test_tensors_are_shared_out_by_size():
    sizes = [100, 1, 60, 50, 2]
    owners = shares([("", "", (), size) for size in sizes], 2)
    loads = [sum(size for size, owner in zip(sizes, owners, strict=True) if owner == rank) for rank in (0, 1)]
    assert sorted(loads) == [103, 110]


def sharded(model: nn.Module, rank: int, ranks: int) -> nn.Module:
    """What ZeRO 3 makes of a model: flat shards, the last filled up."""
    parts = nn.Module()
    for name, whole in model.named_parameters():
        size = -(-whole.numel() // ranks)
        flat = torch.zeros(size * ranks)
        flat[: whole.numel()] = whole.detach().reshape(-1)
        empty = nn.Parameter(torch.empty(0))
        empty.ds_tensor, empty.ds_numel, empty.ds_shape = flat[rank * size : (rank + 1) * size], whole.numel(), whole.shape
        parts.register_parameter(name.replace(".", "_"), empty)
    return parts


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("zero3", [True, False])
def test_shares_of_all_ranks_are_the_whole_and_so_are_their_fingerprints(ranks, zero3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    found = {name: torch.full((parameter.numel(),), math.nan) for name, parameter in model.named_parameters()}
    names = list(found)
    numbers = {name: np.zeros(verify.NUMBERS + 1) for name in names}
    for rank in range(ranks):
        weights = WholeWeights(sharded(model, rank, ranks) if zero3 else model, None)
        for place, flat, start in weights.share(rank, ranks):
            found[names[place]][start : start + len(flat)] = flat
            numbers[names[place]] += verify.fingerprint(flat, weights.metadata()[place][2], torch.float32, start)
    for name, parameter in model.named_parameters():
        assert torch.equal(found[name], parameter.detach().reshape(-1))
        whole = verify.fingerprint(parameter.reshape(-1), tuple(parameter.shape), torch.float32)
        assert np.allclose(numbers[name], whole, atol=1e-5)


def test_a_version_through_shared_memory_and_a_damaged_byte():
    publisher, reader = SharedMemoryPublisher("unit-test"), Reader()
    try:
        for version in (1, 2, 3):
            tensors = [(name, torch.randn(shape).to(getattr(torch, dtype))) for name, dtype, shape, _ in METADATA]
            manifest = publisher.publish(version, tensors, METADATA)
            memory = reader.memory(manifest.path)
            copying.verify(memory, manifest.pieces, manifest.tensors, "here")
            assert all(torch.equal(mine, theirs) for (_, mine), (_, theirs) in
                       zip(copying.tensors(memory, manifest.tensors), tensors, strict=True))
        with open(manifest.path, "r+b") as file:
            file.seek(130)
            byte = file.read(1)[0]
            file.seek(130)
            file.write(bytes([byte ^ 1]))
        with pytest.raises(RunError, match=f"c in {manifest.path} is not what was published"):
            copying.verify(memory, manifest.pieces, manifest.tensors, manifest.path)
    finally:
        publisher.close()


def serving(held: dict[int, np.ndarray], pieces: list[tuple[int, int]], seconds: float = 20.0) -> Server:
    server = Server(LOOPBACK, seconds)
    for version, memory in held.items():
        server.hold(version, memory, [Piece(offset, size, 0) for offset, size in pieces])
    return server


def test_versions_over_the_network():
    """Two ranks hold a part each; a worker that comes late, and one that comes again, get the version that they ask for."""
    held = {version: (np.arange(1000) * version).astype(np.uint8) for version in (1, 2, 3)}
    ranks = [serving(held, [(0, 300), (700, 300)]), serving(held, [(300, 400)])]
    sources, fetcher = [rank.source for rank in ranks], Fetcher()
    for version in (2, 3, 2):
        assert (fetcher.fetch(version, 1000, sources, 20.0) == held[version]).all()
    with pytest.raises(RunError, match=f"the policy's rank at {LOOPBACK}:\\d+ no longer holds version 1"):
        Fetcher().fetch(1, 1000, sources, 20.0)
    with pytest.raises(RunError, match="sent more than version 3 is"):
        Fetcher().fetch(3, 999, sources, 20.0)
    for rank in ranks:
        rank.close()


def test_weights_are_for_those_who_have_the_key():
    server = serving({1: np.zeros(8, np.uint8)}, [(0, 8)])
    for key in ("00" * 32, "00" * 31):
        with pytest.raises(RunError, match="did not come from the policy's rank .*: it closed the connection|timed out"):
            Fetcher().fetch(1, 8, [replace(server.source, key=key)], 1.0)
    assert server.source.key not in repr(server.source)
    server.close()


def test_a_rank_that_is_gone_or_silent_is_named():
    server = serving({7: np.zeros(8, np.uint8)}, [(0, 8)])
    server.close()
    server.close()
    with socket.create_server((LOOPBACK, 0)) as silent:
        for port in (server.source.port, silent.getsockname()[1]):
            with pytest.raises(RunError, match=f"version 7 did not come from .* rank at {LOOPBACK}:{port} within 0.5 s"):
                Fetcher().fetch(7, 8, [replace(server.source, port=port)], 0.5)


def test_the_transport_follows_from_the_nodes():
    config = RunConfig()
    assert backend(config) == "host"
    assert transport(config, ["a", "a"], ["a"]) == "shared_memory"
    assert transport(config, ["a", "b"], ["a"]) == "network"
    config.rollout.weight_transfer = "network"
    assert transport(config, ["a"], ["a"]) == "network"
    config.rollout.weight_transfer = "shared_memory"
    with pytest.raises(ConfigError, match="rollout.weight_transfer: shared_memory needs all policy workers and engines on one"):
        transport(config, ["a"], ["b"])
    config.rollout.weight_transfer = "nccl"
    with pytest.raises(ConfigError, match="needs GPUs"):
        backend(config)


def published(tensor, dtype=torch.float32):
    return {"w": verify.fingerprint(tensor.reshape(-1), tuple(tensor.shape), dtype)}


def used(tensor):
    """As an engine does: through a product, in its own type."""
    outputs = (verify.probes(tensor.shape[1]).to(tensor.dtype) @ tensor.T).float().T
    return {"w": verify.outputs_fingerprint(outputs, verify.weights_of_rows(tensor.shape[0])).tolist()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fingerprints_agree_and_tell_an_optimizer_step_apart(dtype):
    torch.manual_seed(1)
    name = str(dtype).removeprefix("torch.")
    tensor = torch.randn(300, 200) * 0.02
    assert verify.differences(published(tensor, dtype), used(tensor.to(dtype)), name) == []
    stepped = tensor + 1e-5 * torch.randn(300, 200).sign()  # a step of Adam
    (wrong,) = verify.differences(published(stepped, dtype), used(tensor.to(dtype)), name)
    assert wrong.startswith("w is not the learner's: a probe gives")
    swapped = tensor[torch.randperm(300)]
    assert verify.differences(published(tensor, dtype), used(swapped.to(dtype)), name)
    one = tensor.clone()
    one[17, 33] += 0.02
    assert verify.differences(published(tensor), used(one), "float32") or dtype == torch.bfloat16


def test_a_tensor_that_cannot_be_verified_is_an_error():
    tensor = torch.randn(3, 4)
    assert "no layer of the engine was found" in verify.differences(published(tensor), {}, "float32")[0]
    assert "published no such tensor" in verify.differences({}, used(tensor), "float32")[0]
    tied = {"head=w": used(tensor)["w"]} | used(tensor)
    assert verify.differences(published(tensor), tied, "float32") == []
    tied["head=w"] = used(tensor + 1)["w"]
    assert verify.differences(published(tensor), tied, "float32")[0].startswith("head, which should be w is not the learner's")
    assert verify.differences(published(tensor), {"w": [math.nan] * verify.NUMBERS}, "float32")


def test_samples_go_to_the_engine_with_the_fewest():
    balance = Balance(3)
    assert [balance.take() for _ in range(4)] == [0, 1, 2, 0]
    balance.done(1)
    assert balance.take() == 1
    balance.set_aside(1, True)
    balance.set_aside(2, True)
    assert [balance.take() for _ in range(3)] == [0, 0, 0]
    balance.set_aside(0, True)  # all are: the fewest again
    assert balance.take() == 1
    random = np.random.default_rng(0)
    balance, running = Balance(5), [0] * 5
    for _ in range(2000):
        if random.random() < 0.6 or not any(running):
            place = balance.take()
            assert running[place] == min(running)
            running[place] += 1
        else:
            place = int(random.choice([i for i, count in enumerate(running) if count]))
            balance.done(place)
            running[place] -= 1


async def test_a_gate_lets_in_so_many_and_can_be_emptied():
    gate, order, leave = Gate(2), [], [asyncio.Event() for _ in range(4)]

    async def sample(number):
        async with gate.enter():
            order.append(number)
            await leave[number].wait()

    tasks = [asyncio.create_task(sample(number)) for number in range(4)]
    await asyncio.sleep(0.01)
    assert order == [0, 1] and gate.waiting == 2
    emptied = asyncio.create_task(gate.empty())
    leave[0].set()
    await asyncio.sleep(0.01)
    assert order == [0, 1] and not emptied.done()
    leave[1].set()
    await asyncio.wait_for(emptied, 1)
    tasks[2].cancel()
    await asyncio.sleep(0.01)
    assert gate.waiting == 1 and gate.inside == 0
    gate.open()
    leave[3].set()
    await asyncio.wait_for(tasks[3], 1)
    assert order == [0, 1, 3] and gate.inside == 0


async def test_who_is_first_goes_before_those_that_wait():
    gate, order, leave = Gate(1), [], asyncio.Event()

    async def enter(name, **how):
        async with gate.enter(**how):
            order.append(name)
            await leave.wait()

    entering = [asyncio.create_task(enter(name, **how)) for name, how in (("a", {}), ("b", {}), ("probe", {"first": True}))]
    await asyncio.sleep(0.01)
    assert order == ["a"]
    leave.set()
    await asyncio.gather(*entering)
    assert order == ["a", "probe", "b"]


def test_the_decode_clock_counts_neither_idleness_nor_freezes():
    now = SimpleNamespace(time=0.0)
    spans = Spans(lambda: now.time)
    clock = DecodeClock(spans, lambda: now.time)

    def after(seconds, what):
        now.time += seconds
        what()

    after(1, clock.enter)
    after(1, clock.enter)
    after(1, clock.freeze)  # decoded from 1 to 3
    after(5, clock.thaw)
    after(1, clock.leave)
    after(1, clock.leave)  # from 8 to 10
    now.time += 3
    assert clock.take_busy() == 4 and clock.take_busy() == 0
    assert [(span.name, span.start, span.end) for span in spans.take()] == [("decode", 1, 3), ("decode", 8, 10)]
