"""Admission and buffer under random arrival, duration and stragglers: a simulated clock, no Ray."""

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scale_rlhf.experience.admission import Admission
from scale_rlhf.experience.buffer import Buffer, Scored
from scale_rlhf.experience.grouping import ScoringGroups
from scale_rlhf.experience.prompts import prompt_stream
from scale_rlhf.experience.sample import Prompt, Sample


def sample(index: int, version: int = 0) -> Sample:
    prompt = Prompt(index, index, np.zeros(2, np.int32))
    return Sample(prompt, np.zeros(3, np.int32), np.zeros(3, np.float32), np.full(3, version, np.int32), True)


@settings(max_examples=60, deadline=None)
@given(batch=st.integers(1, 7), staleness=st.integers(0, 4), steps=st.integers(1, 8), seed=st.integers(0, 10_000))
def test_staleness_is_bounded_and_every_sample_is_accounted_for(batch, staleness, steps, seed):
    rng = np.random.default_rng(seed)
    admission, buffer = Admission(batch, staleness, total=steps * batch), Buffer(batch, staleness)
    clock, running, trained, started_at = 0.0, [], [], {}
    while not admission.done:
        while admission.allowed:
            index = admission.admitted
            started_at[index] = admission.admit()
            buffer.admitted(index, started_at[index])
            straggler = 100.0 if rng.random() < 0.1 else 1.0
            heapq.heappush(running, (clock + rng.exponential() * straggler, index))
        assert admission.admitted <= (admission.version + staleness + 1) * batch
        assert admission.admitted == admission.trained + admission.filtered + len(running) + len(buffer.ready)
        if buffer.whole(admission.version):
            whole = buffer.take(admission.version)
            indices = [one.sample.index for one in whole]
            assert len(whole) == batch and indices == sorted(indices)
            assert all(admission.version - started_at[i] <= staleness for i in indices)
            assert not buffer.late(admission.version + 1) or len(buffer.late(admission.version + 1)) <= batch
            assert not buffer.ready or min(buffer.ready) > indices[-1]  # oldest first
            trained += indices
            admission.train(batch)
            continue
        clock, index = heapq.heappop(running)
        buffer.add(Scored(sample(index, started_at[index]), 0.0, np.zeros(3, np.float32)))
    assert sorted(trained) == list(range(steps * batch)) and not running and not buffer.ready


def test_nothing_is_admitted_past_the_bound():
    admission = Admission(batch=2, max_staleness=1, total=100)
    assert [admission.admit() for _ in range(4)] == [0, 0, 0, 0] and admission.allowed == 0
    with pytest.raises(AssertionError, match="version 0"):
        admission.admit()
    admission.train(2)
    assert admission.allowed == 2 and admission.in_flight == 2


def test_a_straggler_is_waited_for():
    buffer = Buffer(batch=2, max_staleness=1)
    for index, version in enumerate([0, 0, 1, 1]):
        buffer.admitted(index, version)
    for index in (2, 3, 1):
        buffer.add(Scored(sample(index), 0.0, np.zeros(3)))
    assert not buffer.whole(1) and buffer.late(1) == [0]  # 0 may get no older at version 1
    buffer.add(Scored(sample(0), 0.0, np.zeros(3)))
    assert [one.sample.index for one in buffer.take(1)] == [0, 1]


@given(batch=st.integers(1, 20), size=st.integers(1, 9), seed=st.integers(0, 99))
def test_scoring_groups_depend_on_the_index_alone(batch, size, seed):
    found = []
    for order in (np.arange(3 * batch), np.random.default_rng(seed).permutation(3 * batch)):
        groups = ScoringGroups(batch, size)
        whole = [g for index in order if (g := groups.add(sample(int(index))))]
        assert not groups.parts
        found.append({number: [s.index for s in members] for number, members in whole})
    assert found[0] == found[1]
    assert all(len({index // batch for index in members}) == 1 and len(members) <= size for members in found[0].values())


def test_prompts_come_in_an_order_that_the_seed_decides():
    ids, rows = [[i] for i in range(5)], [{"n": i} for i in range(5)]

    def first(count, seed):
        stream = prompt_stream(ids, rows, responses=2, seed=seed)
        return [next(stream) for _ in range(count)]

    twenty = first(20, seed=1)
    assert [p.index for p in twenty] == list(range(20)) and [p.group for p in twenty] == [i // 2 for i in range(20)]
    for epoch in (twenty[:10], twenty[10:]):
        assert sorted(p.row["n"] for p in epoch[::2]) == [0, 1, 2, 3, 4]
    assert [p.row["n"] for p in twenty] == [p.row["n"] for p in first(20, seed=1)] != [p.row["n"] for p in first(20, seed=2)]
