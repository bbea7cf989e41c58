"""What a frozen server needs to know of the model it serves."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import nn

from scale_rlhf.experience.sample import Prompt, Sample


class Work(Protocol):
    """A model and what is computed with it. Small, and sent to every process of every replica.

    An item is what one sample became for this model: anything with `.tokens`.
    """

    path: str  # of the model, for messages

    def load(self) -> nn.Module:
        """The model in evaluation mode. Under an active HfDeepSpeedConfig transformers shards it while it loads."""

    def prepare(self, samples: Sequence[Sample]) -> list[Any]:
        """Samples to items, one each; after `load`, in the process that callers talk to."""

    def compute(self, model: nn.Module, items: Sequence[Any]) -> list[Any]:
        """One forward. Returns one result an item."""

    def filler(self) -> Any:
        """A tiny item, for a rank of a sharded model that has no batch while another has."""


def smallest_sample() -> Sample:
    """One token of prompt and one of response, as a filler."""
    token, version = np.zeros(1, np.int32), np.zeros(1, np.int32)
    return Sample(Prompt(0, 0, token), token, np.zeros(1, np.float32), version, True)
