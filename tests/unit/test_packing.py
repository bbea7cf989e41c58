"""How samples are laid end to end, and how a batch is cut."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scale_rlhf.experience.packing import cut, pack
from scale_rlhf.experience.sample import Prompt, Sample


def sample(index: int, prompt: int, response: int) -> Sample:
    """Token ids say where they come from: 100·index + place."""
    ids = np.arange(prompt + response, dtype=np.int32) + 100 * index
    return Sample(
        prompt=Prompt(index=index, group=index, token_ids=ids[:prompt]), response_ids=ids[prompt:],
        logprobs=np.zeros(response, np.float32), versions=np.zeros(response, np.int32), ended=True,
    )


def test_pack_by_hand():
    packed = pack([sample(1, 2, 3), sample(2, 1, 2)])
    assert packed.input_ids.tolist() == [[100, 101, 102, 103, 104, 200, 201, 202]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert packed.predicts.tolist() == [1, 2, 3, 5, 6]
    assert packed.targets.tolist() == [102, 103, 104, 201, 202]
    assert packed.last.tolist() == [4, 7]
    assert packed.lengths == [3, 2]


shapes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(shapes)
def test_every_target_is_the_token_after_the_position_that_predicts_it(lengths):
    samples = [sample(i, p, r) for i, (p, r) in enumerate(lengths)]
    packed = pack(samples)
    ids = packed.input_ids[0]
    assert torch.equal(ids[packed.predicts + 1], packed.targets)
    split = packed.targets.split(packed.lengths)
    assert [part.tolist() for part in split] == [s.response_ids.tolist() for s in samples]
    assert ids[packed.last].tolist() == [int(s.response_ids[-1]) for s in samples]
    assert (packed.position_ids[0] == 0).sum() == len(samples)  # positions start again once a sample
    assert packed.input_ids.dtype == packed.predicts.dtype == packed.last.dtype == torch.int64


def test_rows_by_hand():
    packed = pack([sample(1, 1, 1), sample(2, 2, 3), sample(3, 1, 2)], rows=True)
    assert packed.input_ids.tolist() == [[200, 201, 202, 203, 204], [300, 301, 302, 100, 101]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1]]
    assert packed.predicts.tolist() == [8, 1, 2, 3, 5, 6] and packed.last.tolist() == [9, 4, 7]
    assert packed.lengths == [1, 3, 2]


@settings(max_examples=100, deadline=None)
@given(shapes)
def test_rows_hold_the_same_samples_with_little_padding(lengths):
    samples = [sample(i, p, r) for i, (p, r) in enumerate(lengths)]
    packed = pack(samples, rows=True)
    ids, positions = packed.input_ids.flatten(), packed.position_ids.flatten()
    assert packed.input_ids.shape[1] == max(s.tokens for s in samples)
    assert torch.equal(ids[packed.predicts + 1], packed.targets)
    assert [part.tolist() for part in packed.targets.split(packed.lengths)] == [s.response_ids.tolist() for s in samples]
    for one, last in zip(samples, packed.last.tolist(), strict=True):
        whole = slice(last + 1 - one.tokens, last + 1)
        assert ids[whole].tolist() == [*one.prompt.token_ids, *one.response_ids]
        assert positions[whole].tolist() == list(range(one.tokens))
    least = -(-sum(s.tokens for s in samples) // packed.input_ids.shape[1])
    assert len(packed.input_ids) <= 2 * least  # first fit: every row but one is at least half full


def test_to_moves_every_tensor():
    moved = pack([sample(0, 2, 2)]).to("meta")
    tensors = (moved.input_ids, moved.position_ids, moved.predicts, moved.targets, moved.last)
    assert {t.device.type for t in tensors} == {"meta"} and moved.lengths == [2]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 60))
def test_cut_keeps_order_loses_nothing_and_holds_the_budget(tokens, budget):
    cuts = cut(tokens, budget)
    assert [place for part in cuts for place in part] == list(range(len(tokens)))
    for part in cuts:
        assert len(part) == 1 or sum(tokens[place] for place in part) <= budget
    for part, following in zip(cuts, cuts[1:], strict=False):  # greedy: the next sample would not have fitted
        assert sum(tokens[place] for place in part) + tokens[following[0]] > budget


@pytest.mark.parametrize(("tokens", "budget", "expected"), [
    ([], 10, []),
    ([10], 10, [range(0, 1)]),
    ([99], 10, [range(0, 1)]),
    ([4, 4, 4], 8, [range(0, 2), range(2, 3)]),
    ([4, 99, 4], 8, [range(0, 1), range(1, 2), range(2, 3)]),
])
def test_cut_by_hand(tokens, budget, expected):
    assert cut(tokens, budget) == expected
