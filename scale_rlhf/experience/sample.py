"""The sample: one prompt, one response, and what was known when it was generated."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Prompt:
    """A prompt as admitted. `row` is the row of the data file, for reward functions that need more than text."""

    index: int  # place in the order of admission: decides the seed, the scoring group and the micro-batch
    group: int  # samples of one prompt share it
    token_ids: np.ndarray  # int32 [prompt tokens], chat template applied
    row: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """A finished response. Arrays are [response tokens]; the end token, if there is one, is the last."""

    prompt: Prompt
    response_ids: np.ndarray  # int32
    logprobs: np.ndarray  # float32, the engine's, of the distribution that was sampled from
    versions: np.ndarray  # int32, policy version of every token
    ended: bool  # False: cut at the limit

    @property
    def index(self) -> int:
        return self.prompt.index

    @property
    def tokens(self) -> int:
        """Prompt and response tokens: what a forward costs."""
        return len(self.prompt.token_ids) + len(self.response_ids)


def step_of(samples: Sequence[Sample]) -> int:
    """The step that is made of samples like these at the earliest: one above the newest version that sampled them."""
    return 1 + max((int(sample.versions.max()) for sample in samples if len(sample.versions)), default=0)
