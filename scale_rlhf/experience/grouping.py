"""Samples that are scored together: groups cut in the order of admission, each complete when its members have ended."""

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.experience.sample import Sample


class ScoringGroups:
    """Groups of `size`, numbered from 0. The last of those that may start now is closed smaller: a group never waits for
    samples that nobody may admit yet.
    """

    def __init__(self, size: int):
        self.size = size
        self._number, self._open = 0, 0  # of the group that is being filled; its members so far
        self._group: dict[int, int] = {}  # sample -> its group
        self._missing: dict[int, int] = {}  # group -> members that have not ended
        self._ended: dict[int, list[Sample]] = {}

    def admit(self, index: int) -> None:
        """Sample `index` starts."""
        self._group[index] = self._number
        self._missing[self._number] = self._missing.get(self._number, 0) + 1
        self._open += 1
        if self._open == self.size:
            self.close()

    def close(self) -> None:
        """No more samples start for now."""
        if self._open:
            self._number, self._open = self._number + 1, 0

    def add(self, sample: Sample) -> tuple[int, list[Sample]] | None:
        """A sample has ended. Returns (group number, its samples by index) when that completes a closed group."""
        number = self._group.pop(sample.index)
        ended = self._ended.setdefault(number, [])
        ended.append(sample)
        self._missing[number] -= 1
        if self._missing[number] or number == self._number:
            return None
        del self._missing[number], self._ended[number]
        return number, sorted(ended, key=lambda one: one.index)


def group_size(config: RunConfig) -> int:
    """Samples that are scored together. A prompt's responses never part: a group that cannot be scored is replaced whole."""
    responses = config.ppo.responses_per_prompt
    if config.overlap.max_staleness or config.ppo.dynamic_sampling:
        return responses  # one prompt's, so that which prompts are left out, and when, cuts nothing anew
    return -(-config.overlap.score_group // responses) * responses
