"""What is computed together, with a clock that the test moves; and the server around it, in this process."""

import asyncio
import random

import pytest

from scale_rlhf.experience.packing import cut
from scale_rlhf.models.frozen.batcher import Batcher
from scale_rlhf.models.frozen.fleet import summary


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def drain(batcher: Batcher) -> list[list[tuple[int, int]]]:
    taken = []
    while batch := batcher.take():
        taken.append([tuple(item) for item in batch.items])
    return taken


def test_a_batch_waits_for_others_and_no_longer_than_its_time(clock):
    batcher = Batcher(10, 0.5, clock)
    assert batcher.wait() is None and batcher.take() is None
    first = batcher.add([3], fixed=False)
    assert batcher.take() is None and batcher.wait() == pytest.approx(0.5)
    clock.now += 0.3
    second = batcher.add([4], fixed=False)
    assert batcher.take() is None and batcher.wait() == pytest.approx(0.2)  # counted from the oldest
    clock.now += 0.2
    assert batcher.wait() == pytest.approx(0.0)
    batch = batcher.take()
    assert [tuple(item) for item in batch.items] == [(first, 0), (second, 0)] and batch.tokens == 7
    assert batcher.take() is None and batcher.waiting == 0


def test_a_full_batch_leaves_at_once(clock):
    batcher = Batcher(10, 60.0, clock)
    batcher.add([6, 4], fixed=False)
    assert drain(batcher) == [[(1, 0), (1, 1)]]
    batcher.add([6, 5], fixed=False)  # the second does not fit: the first leaves, the second waits
    assert drain(batcher) == [[(2, 0)]] and batcher.waiting == 1


def test_an_open_batch_is_not_closed_early_by_a_ready_one(clock):
    batcher = Batcher(10, 1.0, clock)
    batcher.add([3], fixed=False)
    fixed = batcher.add([5], fixed=True)
    assert drain(batcher) == [[(fixed, 0)]]
    batcher.add([7], fixed=False)
    assert drain(batcher) == [[(1, 0), (3, 0)]]


def test_a_fixed_request_is_cut_like_packing_cuts_it_whatever_waits(clock):
    lengths = [4, 4, 4, 11, 1, 9]
    expected = [list(places) for places in cut(lengths, 10)]
    for others in ([], [3], [9, 9, 2]):
        batcher = Batcher(10, 1.0, clock)
        batcher.add(others, fixed=False)
        ticket = batcher.add(lengths, fixed=True)
        batches = drain(batcher)
        assert [[place for _, place in batch] for batch in batches if batch[0][0] == ticket] == expected
        assert all(len({ticket for ticket, _ in batch}) == 1 for batch in batches)


def test_a_sample_over_the_budget_goes_alone(clock):
    batcher = Batcher(10, 0.0, clock)
    batcher.add([2, 25, 2], fixed=False)
    assert drain(batcher) == [[(1, 0)], [(1, 1)], [(1, 2)]]


def test_the_queue_is_bounded_but_takes_any_request_when_empty(clock):
    batcher = Batcher(10, 0.0, clock, capacity=4)
    assert batcher.has_room(9)
    batcher.add([1] * 3, fixed=False)
    assert batcher.has_room(1) and not batcher.has_room(2)
    drain(batcher)
    assert batcher.has_room(9)


def test_every_sample_leaves_exactly_once_within_budget_and_time(clock):
    chance = random.Random(0)
    batcher, due, came = Batcher(50, 0.2, clock), [], []
    arrived: dict[int, float] = {}
    for _ in range(300):
        lengths = [chance.randint(1, 60) for _ in range(chance.randint(0, 6))]
        ticket = batcher.add(lengths, fixed=chance.random() < 0.3)
        arrived[ticket] = clock.now
        due += [(ticket, place, length) for place, length in enumerate(lengths)]
        clock.now += chance.random() * 0.1
        while batch := batcher.take():
            came += batch.items
            assert batch.tokens <= 50 or len(batch.items) == 1
        if (wait := batcher.wait()) is not None:
            assert 0 < wait <= 0.2
    clock.now += 0.2
    came += [item for batch in iter(batcher.take, None) for item in batch.items]
    assert sorted(tuple(item) for item in came) == [(ticket, place) for ticket, place, _ in due]


def test_metrics_of_replicas_add_up():
    names = "samples", "tokens", "batches", "requests", "latency", "latency_max", "busy", "queue_max"
    first = dict(zip(names, (4, 60, 1, 2, 1.0, 0.9, 0.5, 3), strict=True))
    second = dict(zip(names, (2, 40, 1, 2, 2.0, 1.5, 0.25, 7), strict=True))
    found = summary([first, second], budget=100)
    assert found["samples"] == 6 and found["tokens"] == 100 and found["busy_seconds"] == 0.75
    assert found["latency_mean_seconds"] == 0.75 and found["latency_max_seconds"] == 1.5
    assert found["batch_fill"] == 0.5 and found["queue_max_samples"] == 7


class Word:
    """An item of the server below: a text, a token a letter."""

    def __init__(self, text: str):
        self.text, self.tokens = text, len(text)


class Lengths:
    """A model that any process has: it writes down what came together, and chokes on one word."""

    def __init__(self):
        self.batches = []

    def load(self):
        import torch

        return torch.nn.Identity()

    def prepare(self, samples):
        return [Word(sample) for sample in samples]

    def compute(self, model, items):
        self.batches.append([item.text for item in items])
        if any(item.text == "choke" for item in items):
            raise ValueError("choked")
        return [item.tokens for item in items]

    def filler(self):
        return Word("")


@pytest.fixture
def serve():
    """Run a coroutine function against a server in this process: a budget of 12 letters, a wait of 20 ms."""
    from scale_rlhf.models.frozen.server import FrozenServer

    def run(scenario):
        async def main():
            server = FrozenServer(Lengths(), "float32", 1, 12, 0.02, 10.0)
            await server.load("", 0)
            await server.serve([])
            return await asyncio.wait_for(scenario(server), 20)

        return asyncio.run(main())

    return run


def test_the_server_merges_callers_and_gives_each_its_own(serve):
    async def scenario(server):
        answers = await asyncio.gather(
            server.compute(["a", "bb"], False), server.compute(["ccc"], False),
            server.compute(["dddd", "eeeee"], True), server.compute([], False),
        )
        return answers, server.work.batches, await server.metrics()

    answers, batches, metrics = serve(scenario)
    assert answers == [[1, 2], [3], [4, 5], []]
    assert ["a", "bb", "ccc"] in batches and ["dddd", "eeeee"] in batches and len(batches) == 2
    assert metrics["samples"] == 5 and metrics["tokens"] == 15 and metrics["requests"] == 3 and metrics["batches"] == 2
    assert 0 < metrics["latency_max"] <= metrics["latency"] and metrics["busy"] > 0 and metrics["queue_max"] == 5


def test_a_failed_batch_fails_its_callers_alone_and_leaves_nothing(serve):
    async def scenario(server):
        failed, well = await asyncio.gather(
            server.compute(["long enough", "choke"], True), server.compute(["well"], True), return_exceptions=True,
        )
        after = await server.compute(["after"], False)
        return failed, well, after, server._requests

    failed, well, after, left = serve(scenario)
    assert isinstance(failed, ValueError) and well == [4] and after == [5] and left == {}


def test_callers_that_find_the_queue_full_wait_their_turn(serve):
    async def scenario(server):
        server.batcher.capacity = 2
        answers = await asyncio.gather(*(server.compute(["x" * n, "y"], False) for n in range(1, 12)))
        return answers, await server.metrics()

    answers, metrics = serve(scenario)
    assert answers == [[n, 1] for n in range(1, 12)]
    assert metrics["queue_max"] <= 2
