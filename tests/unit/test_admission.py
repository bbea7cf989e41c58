"""Admission and buffer under random arrival, duration and stragglers: a simulated clock, no Ray."""

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scale_rlhf.experience.admission import Admission
from scale_rlhf.experience.buffer import Buffer, Scored
from scale_rlhf.experience.grouping import ScoringGroups
from scale_rlhf.experience.prompts import PromptStream
from scale_rlhf.experience.sample import Prompt, Sample


def sample(index: int, version: int = 0) -> Sample:
    prompt = Prompt(index, index, np.zeros(2, np.int32))
    return Sample(prompt, np.zeros(3, np.int32), np.zeros(3, np.float32), np.full(3, version, np.int32), True)


class Simulation:
    """Admission and buffer under a simulated clock, driven as the loop drives them; checks what must hold at every moment.

    Samples take random times, one in ten a hundred times longer; some fail and are issued again, some are filtered. The
    learner updates for a random time, hands a version over, and goes on while engines load it (k > 0) or waits (k = 0).
    """

    def __init__(self, batch: int, staleness: int, steps: int, seed: int):
        self.batch, self.staleness, self.rng = batch, staleness, np.random.default_rng(seed)
        self.admission, self.buffer = Admission(batch, staleness, total=steps * batch), Buffer(batch, staleness)
        self.events: list[tuple[float, int, str, int]] = []
        self.clock, self.serial, self.learning, self.loading = 0.0, 0, False, 0
        self.version_of: dict[int, int] = {}
        self.decoding: set[int] = set()
        self.filtered: set[int] = set()
        self.trained: list[int] = []

    def run(self) -> None:
        self.admit()
        while not self.admission.done:
            assert self.events, "nothing is under way: the loop would hang"
            self.clock, _, kind, number = heapq.heappop(self.events)
            getattr(self, kind)(number)
            self.learn()
            self.check()

    def at(self, mean: float, kind: str, number: int) -> None:
        self.serial += 1
        heapq.heappush(self.events, (self.clock + self.rng.exponential() * mean, self.serial, kind, number))

    def admit(self) -> None:
        while self.admission.allowed:
            index = self.admission.admitted
            self.version_of[index] = self.admission.admit()
            self.buffer.admitted(index, self.version_of[index])
            self.decoding.add(index)
            self.at(100.0 if self.rng.random() < 0.1 else 1.0, "finished", index)

    def finished(self, index: int) -> None:
        what = self.rng.random()
        if what < 0.1:  # its engine died: the same sample again
            return self.at(1.0, "finished", index)
        self.decoding.remove(index)
        if what < 0.2:
            self.filtered.add(index)
            self.admission.filter()
            self.buffer.filter(index)
            return self.admit()
        self.buffer.add(Scored(sample(index, self.version_of[index]), 0.0, np.zeros(3, np.float32)))

    def learn(self) -> None:
        if self.learning or not self.buffer.whole:
            return
        version = self.buffer.version
        due = {i for i, admitted in self.version_of.items() if admitted <= version - self.staleness} - self.filtered
        indices = [one.sample.index for one in self.buffer.take()]
        assert len(indices) == self.batch and indices == sorted(indices)
        assert all(version - self.version_of[i] <= self.staleness for i in indices)
        assert due <= {*self.trained, *indices}, "one that may get no older was left behind"
        assert not self.buffer._ready or min(self.buffer._ready) > indices[-1], "oldest first"
        self.trained += indices
        self.learning = True
        self.at(5.0, "updated", version)

    def updated(self, version: int) -> None:
        self.loading += 1
        self.at(3.0, "loaded", version)
        self.learning = self.staleness == 0 or self.loading == 2

    def loaded(self, version: int) -> None:
        self.loading -= 1
        self.learning = False if self.staleness == 0 else self.learning and any(kind == "updated" for *_, kind, _ in self.events)
        self.admission.train(self.batch)
        self.admit()

    def check(self) -> None:
        admission = self.admission
        assert admission.admitted - admission.filtered <= (admission.version + self.staleness + 1) * self.batch
        in_learner = len(self.trained) - admission.trained
        assert admission.in_flight == len(self.decoding) + self.buffer.ready + in_learner
        assert not set(self.buffer.late()) & set(self.buffer._ready)


@settings(max_examples=150, deadline=None)
@given(batch=st.integers(1, 7), staleness=st.integers(0, 4), steps=st.integers(1, 10), seed=st.integers(0, 10_000))
def test_staleness_is_bounded_and_every_sample_is_accounted_for(batch, staleness, steps, seed):
    simulation = Simulation(batch, staleness, steps, seed)
    simulation.run()
    assert len(set(simulation.trained)) == len(simulation.trained) == steps * batch
    assert set(simulation.trained) | simulation.filtered == set(simulation.version_of) - simulation.decoding
    assert not simulation.decoding and not simulation.buffer.ready


def test_nothing_is_admitted_past_the_bound():
    admission = Admission(batch=2, max_staleness=1, total=100)
    assert [admission.admit() for _ in range(4)] == [0, 0, 0, 0] and admission.allowed == 0
    with pytest.raises(AssertionError, match="version 0"):
        admission.admit()
    admission.train(2)
    assert admission.allowed == 2 and admission.in_flight == 2


def test_a_straggler_is_waited_for():
    buffer = Buffer(batch=2, max_staleness=1, version=1)
    for index, version in enumerate([0, 0, 1, 1]):
        buffer.admitted(index, version)
    for index in (2, 3, 1):
        buffer.add(Scored(sample(index), 0.0, np.zeros(3)))
    assert not buffer.whole and buffer.late() == buffer.missing() == [0]  # 0 may get no older at version 1
    buffer.add(Scored(sample(0), 0.0, np.zeros(3)))
    assert buffer.whole and [one.sample.index for one in buffer.take()] == [0, 1]


def test_before_any_sample_can_be_due_the_quick_ones_are_trained_first():
    buffer = Buffer(batch=1, max_staleness=2)
    for index in range(3):
        buffer.admitted(index, 0)
    buffer.add(Scored(sample(2), 0.0, np.zeros(3)))
    assert buffer.whole and buffer.take()[0].sample.index == 2 and not buffer.whole
    buffer.filter(0)
    buffer.add(Scored(sample(1), 0.0, np.zeros(3)))
    assert buffer.whole and buffer.take()[0].sample.index == 1


@given(batch=st.integers(1, 20), size=st.integers(1, 9), seed=st.integers(0, 99))
def test_scoring_groups_depend_on_the_index_alone(batch, size, seed):
    found = []
    for order in (np.arange(3 * batch), np.random.default_rng(seed).permutation(3 * batch)):
        groups, whole = ScoringGroups(size), []
        for version in range(3):  # as the loop does at staleness 0: a batch is admitted, and ends in any order
            for index in range(version * batch, (version + 1) * batch):
                groups.admit(index)
            groups.close()
            ended = order[(order >= version * batch) & (order < (version + 1) * batch)]
            whole += [g for index in ended if (g := groups.add(sample(int(index))))]
        found.append({number: [s.index for s in members] for number, members in whole})
    assert found[0] == found[1]
    assert sorted(index for members in found[0].values() for index in members) == list(range(3 * batch))
    assert all(len({index // batch for index in members}) == 1 and len(members) <= size for members in found[0].values())


def test_prompts_come_in_an_order_that_the_seed_decides():
    ids, rows = [[i] for i in range(5)], [{"n": i} for i in range(5)]

    def first(count, seed):
        stream = PromptStream(ids, rows, responses=2, seed=seed)
        return [stream[index] for index in range(count)]

    twenty = first(20, seed=1)
    assert [p.index for p in twenty] == list(range(20)) and [p.group for p in twenty] == [i // 2 for i in range(20)]
    for epoch in (twenty[:10], twenty[10:]):
        assert sorted(p.row["n"] for p in epoch[::2]) == [0, 1, 2, 3, 4]
    assert [p.row["n"] for p in twenty] == [p.row["n"] for p in first(20, seed=1)] != [p.row["n"] for p in first(20, seed=2)]
