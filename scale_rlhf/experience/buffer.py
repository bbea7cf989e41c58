"""The experience buffer: scored samples wait here, oldest first, until a batch is whole.

The batch that makes version v + 1 contains every sample admitted at a version ≤ v − max_staleness: for a straggler
among them the learner waits. Samples leave in the order of their admission versions. No sample is thrown away.
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
    version_of: dict[int, int] = field(default_factory=dict)  # index -> version it was admitted at, until it is taken
    ready: dict[int, Scored] = field(default_factory=dict)

    def admitted(self, index: int, version: int) -> None:
        self.version_of[index] = version

    def add(self, scored: Scored) -> None:
        self.ready[scored.sample.index] = scored

    def late(self, version: int) -> list[int]:
        """Indices of samples that may get no older, and have not arrived."""
        oldest = version - self.max_staleness
        return sorted(index for index, admitted in self.version_of.items() if admitted <= oldest and index not in self.ready)

    def whole(self, version: int) -> bool:
        """Whether the batch that makes version + 1 can be taken."""
        return len(self._chosen(version)) == self.batch and not self.late(version)

    def take(self, version: int) -> list[Scored]:
        """That batch, in order of index. Call it when `whole`."""
        chosen = self._chosen(version)
        for index in chosen:
            del self.version_of[index]
        return [self.ready.pop(index) for index in chosen]

    def _chosen(self, version: int) -> list[int]:
        """The oldest finished samples among those whose turn has come.

        A sample that was admitted later than max(0, version − max_staleness) has to leave its place to older ones that
        still decode, or these could come due at once, more of them than a batch holds.
        """
        due = sum(admitted <= max(0, version - self.max_staleness) for admitted in self.version_of.values())
        turn = sorted(self.version_of)[: max(due, self.batch)]
        return [index for index in turn if index in self.ready][: self.batch]
