"""NaN and infinities: who saw them first, on which sample. A weight that has become NaN never comes back, so they are looked
for wherever numbers change hands, and a batch with one is never followed by a checkpoint.
"""

from collections.abc import Sequence

import numpy as np

from scale_rlhf.errors import RunError
from scale_rlhf.experience.buffer import Scored
from scale_rlhf.experience.sample import Sample


class BadNumbers(RunError):
    """indices: of the samples that should not be trained on. batch: what was being trained, where it was."""

    def __init__(self, message: str, indices: Sequence[int]):
        super().__init__(message)
        self.indices = list(indices)
        self.batch: list[Scored] = []

    def __reduce__(self):
        return type(self), (self.args[0], self.indices)


def check(role: str, what: str, samples: Sequence[Sample], arrays: Sequence[np.ndarray]) -> None:
    """Raises BadNumbers where an array, one a sample, holds what is no finite number."""
    bad = [sample.index for sample, array in zip(samples, arrays, strict=True) if not np.isfinite(array).all()]
    if bad:
        first = next(array for array in arrays if not np.isfinite(array).all())
        place = int(np.argmax(~np.isfinite(first)))
        raise BadNumbers(f"{role}: {what} of sample {bad[0]} is {first[place]} at its token {place}"
                         + (f"; {len(bad)} samples have such numbers" if bad[1:] else ""), bad)
