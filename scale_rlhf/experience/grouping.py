"""Samples that are scored together: groups fixed by sample index, each complete when its members have ended."""

from dataclasses import dataclass, field

from scale_rlhf.experience.sample import Sample


@dataclass
class ScoringGroups:
    """Groups of `size` within a batch of `batch`; a group never spans two batches, which could wait for each other."""

    batch: int
    size: int
    parts: dict[int, list[Sample]] = field(default_factory=dict)

    def add(self, sample: Sample) -> tuple[int, list[Sample]] | None:
        """Returns (group number, its samples by index) when this sample completes its group."""
        groups_a_batch = -(-self.batch // self.size)
        number = sample.index // self.batch * groups_a_batch + sample.index % self.batch // self.size
        part = self.parts.setdefault(number, [])
        part.append(sample)
        first = number % groups_a_batch * self.size
        if len(part) < min(self.size, self.batch - first):
            return None
        return number, sorted(self.parts.pop(number), key=lambda s: s.index)
