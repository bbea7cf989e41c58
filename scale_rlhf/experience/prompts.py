"""The order in which prompts are asked: a shuffle of the data, then another, without end, from the seed alone."""

from collections.abc import Iterator, Sequence

import numpy as np

from scale_rlhf.experience.sample import Prompt


def prompt_stream(token_ids: Sequence[Sequence[int]], rows: Sequence[dict], *, responses: int, seed: int) -> Iterator[Prompt]:
    """Prompts with their samples' indices; `responses` samples of one prompt follow each other and share a group."""
    group = index = epoch = 0
    while True:
        for place in np.random.default_rng([seed, epoch]).permutation(len(token_ids)):
            ids = np.asarray(token_ids[place], dtype=np.int32)
            for _ in range(responses):
                yield Prompt(index, group, ids, rows[place])
                index += 1
            group += 1
        epoch += 1
