"""The experience buffer: scored samples wait here, oldest first, until a batch is whole.

The batch that makes version v + 1 contains every sample admitted at a version ≤ v − max_staleness: for a straggler
among them the learner waits. No sample is thrown away because it came late.

Oldest *finished* first would not do. With B = 1 and k = 2, quick newer samples could be trained first, and two old
ones would then come due in the same batch. So samples take their turns in the order of admission: a batch is chosen
among the oldest B, and while none can be due yet (v < k) among all that were admitted at version 0.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from scale_rlhf.experience.sample import Sample


@dataclass(frozen=True)
class Scored:
    """A sample and what the scoring roles said of it."""

    sample: Sample
    score: float
    reference_logprobs: np.ndarray  # float32 [response tokens]
    baseline: float | None = None  # reward of the greedy response to its prompt, where the method asks for one


@dataclass
class Buffer:
    """No clock, no Ray; constant work a sample. `version` is the one that the next batch trains.

    Call `admitted` when a sample starts, in the order of indices, then `add` when it is scored or `filter` when it will
    never be trained on. All samples of a prompt are added at once, so a batch never splits a group.
    """

    batch: int
    max_staleness: int
    version: int = 0
    _turn: dict[int, int] = field(default_factory=dict)  # index -> version of admission; those a batch may be made of
    _behind: deque[tuple[int, int]] = field(default_factory=deque)  # (index, version) of those after them
    _gone: set[int] = field(default_factory=set)  # filtered while behind
    _ready: dict[int, Scored] = field(default_factory=dict)
    _ready_in_turn: int = 0

    def admitted(self, index: int, version: int) -> None:
        """Sample `index` starts; its tokens are of `version` or newer."""
        self._behind.append((index, version))
        self._advance()

    def add(self, scored: Scored) -> None:
        """A sample is finished and scored."""
        index = scored.sample.index
        self._ready[index] = scored
        self._ready_in_turn += index in self._turn

    def filter(self, index: int) -> None:
        """A sample that is not scored yet will not be trained on."""
        if self._turn.pop(index, None) is None:
            self._gone.add(index)
        self._advance()

    @property
    def whole(self) -> bool:
        """Whether `take` has a batch. Past the first k versions that is: the oldest B are all there."""
        return self._ready_in_turn >= self.batch

    def take(self) -> list[Scored]:
        """The batch that makes version + 1, in order of index; call it when `whole`. `version` counts up."""
        chosen = []
        for index in self._turn:
            if index in self._ready:
                chosen.append(index)
                if len(chosen) == self.batch:
                    break
        for index in chosen:
            del self._turn[index]
        self._ready_in_turn -= self.batch
        self.version += 1
        self._advance()
        return [self._ready.pop(index) for index in chosen]

    @property
    def ready(self) -> int:
        """Samples that are scored and wait."""
        return len(self._ready)

    @property
    def scored(self) -> list[Scored]:
        """Samples that are scored and wait, as they came."""
        return list(self._ready.values())

    @property
    def in_flight(self) -> list[tuple[int, int]]:
        """(index, version of admission) of every sample that is admitted and neither trained nor filtered, oldest first."""
        return [*self._turn.items(), *(one for one in self._behind if one[0] not in self._gone)]

    def late(self) -> list[int]:
        """Indices of samples that may get no older, and have not arrived: the learner waits for these."""
        return [index for index, admitted in self._turn.items()
                if admitted <= self.version - self.max_staleness and index not in self._ready]

    def missing(self) -> list[int]:
        """Indices of all samples that the next batch could be made of, and that have not arrived."""
        return [index for index in self._turn if index not in self._ready]

    def _advance(self) -> None:
        """Give their turn to samples whose time has come."""
        due = max(0, self.version - self.max_staleness)
        while self._behind and (len(self._turn) < self.batch or self._behind[0][1] <= due):
            index, version = self._behind.popleft()
            if index in self._gone:
                self._gone.remove(index)
                continue
            self._turn[index] = version
            self._ready_in_turn += index in self._ready
