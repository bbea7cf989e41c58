"""The experience buffer: scored samples wait here, oldest first, until a batch is whole.

The batch that makes version v + 1 contains every sample admitted at a version ≤ v − max_staleness: for a straggler
among them the learner waits. The rest of the batch are the oldest finished samples. No sample is thrown away.
"""

from dataclasses import dataclass, field

import numpy as np

from scale_rlhf.experience.sample import Sample


@dataclass(frozen=True)
class Scored:
    """A sample and what the scoring roles said of it."""

    sample: Sample
    score: float
    reference_logprobs: np.ndarray  # float32 [response tokens]


@dataclass
class Buffer:
    """No clock, no Ray. Call `admitted` when a sample starts and `add` when it is scored."""

    batch: int
    max_staleness: int
    waiting: dict[int, int] = field(default_factory=dict)  # index -> version it was admitted at, not yet scored
    ready: dict[int, Scored] = field(default_factory=dict)

    def admitted(self, index: int, version: int) -> None:
        self.waiting[index] = version

    def add(self, scored: Scored) -> None:
        del self.waiting[scored.sample.index]
        self.ready[scored.sample.index] = scored

    def late(self, version: int) -> list[int]:
        """Indices of samples that may get no older, and have not arrived."""
        return sorted(index for index, admitted in self.waiting.items() if admitted <= version - self.max_staleness)

    def take(self, version: int) -> list[Scored] | None:
        """The batch that makes version + 1, in order of index; None while it is not whole."""
        if len(self.ready) < self.batch or self.late(version):
            return None
        return [self.ready.pop(index) for index in sorted(self.ready)[: self.batch]]
