"""The order in which prompts are asked: a shuffle of the data, then another, without end, from the seed alone."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from scale_rlhf.experience.sample import Prompt


class PromptStream:
    """`stream[index]` is the prompt of sample `index`, for any index; `responses` samples of a prompt follow each other and
    share a group. The number of samples admitted so far is therefore all that says where in the data a run is.
    """

    def __init__(self, token_ids: Sequence[Sequence[int]], rows: Sequence[dict], *, responses: int, seed: int):
        self.token_ids, self.rows, self.responses, self.seed = token_ids, rows, responses, seed
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def __getitem__(self, index: int) -> Prompt:
        group = index // self.responses
        epoch, turn = divmod(group, len(self.token_ids))
        place = self._order(epoch)[turn]
        return Prompt(index, group, np.asarray(self.token_ids[place], dtype=np.int32), self.rows[place])

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.token_ids))
