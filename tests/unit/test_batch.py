"""How a batch is cut: everything once, nothing by chance, the same number of forwards on every rank."""

import numpy as np
import pytest
import torch

from scale_rlhf.training import batch
from tests import tiny


@pytest.mark.parametrize("size,count", [(1, 1), (1, 4), (7, 3), (64, 4), (5, 5)])
def test_minibatches_use_every_place_once(size, count):
    parts = batch.minibatches(size, count, seed=0, version=3, epoch=1)
    assert sorted(np.concatenate(parts).tolist()) == list(range(size))
    assert len(parts) == min(size, count)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_minibatches_follow_from_seed_version_and_epoch():
    def order(seed, version, epoch):
        return [part.tolist() for part in batch.minibatches(40, 4, seed=seed, version=version, epoch=epoch)]

    assert order(1, 2, 3) == order(1, 2, 3)
    assert len({str(order(*key)) for key in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4)]}) == 4


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 4, 11])
@pytest.mark.parametrize("budget", [1, 30, 10_000])
def test_microbatches_lose_nothing_and_keep_in_step(size, ranks, budget):
    tokens = np.random.default_rng(size).integers(2, 28, size).tolist()
    plan = batch.microbatches(range(size), tokens, ranks=ranks, budget=budget)
    assert sorted(place for rank in plan for part in rank for place in part) == list(range(size))
    assert len({len(rank) for rank in plan}) == 1 and plan[0]
    assert all(len(part) <= 1 or sum(tokens[place] for place in part) <= budget for rank in plan for part in rank)


def test_ranks_get_like_loads():
    tokens = np.random.default_rng(0).integers(10, 200, 100).tolist()
    loads = [sum(tokens[place] for place in share) for share in batch.deal(range(100), tokens, 4)]
    assert max(loads) - min(loads) < 200


def test_forwards_pad_with_fillers():
    samples = tiny.samples(1)
    (own,), (filler,) = (list(batch.forwards(samples, [0], rank=rank, ranks=2, budget=100)) for rank in (0, 1))
    assert own[1] == [0] and own[0].lengths == [len(samples[0].response_ids)]
    assert filler[1] == [] and filler[0].lengths == [1]


def test_padded_and_ragged_are_inverse():
    arrays = [sample.logprobs for sample in tiny.samples(5)]
    values, mask = batch.padded(arrays)
    assert mask.sum(-1).tolist() == [len(array) for array in arrays] and not values[~mask].any()
    assert all(np.array_equal(a, b) for a, b in zip(arrays, batch.ragged(values, mask), strict=True))


def test_flat_follows_the_places():
    arrays = [np.array([1.0, 2.0]), np.array([3.0]), np.array([4.0, 5.0])]
    assert batch.flat(arrays, [2, 0], "cpu").tolist() == [4, 5, 1, 2]
    assert torch.equal(batch.flat(arrays, [], "cpu"), torch.zeros(1))
