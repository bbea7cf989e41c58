"""Packing: many samples in one row without padding, and how a batch is cut into micro-batches.

Position ids start again at every sample; with no attention mask and no cache, transformers keeps packed
samples apart (exact for sdpa and eager, variable-length kernels for flash attention).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scale_rlhf.experience.sample import Sample


@dataclass(frozen=True)
class Pack:
    """One forward. T tokens in all, N of them response tokens, S samples."""

    input_ids: torch.Tensor  # [1, T]
    position_ids: torch.Tensor  # [1, T]
    predicts: torch.Tensor  # [N] positions whose logits predict a response token, and whose state has its value
    targets: torch.Tensor  # [N] the response tokens
    last: torch.Tensor  # [S] position of each sample's last token, where a score is read
    lengths: list[int]  # [S] response lengths: splits [N] back into samples

    def to(self, device: torch.device | str) -> "Pack":
        tensors = (t.to(device) for t in (self.input_ids, self.position_ids, self.predicts, self.targets, self.last))
        return Pack(*tensors, self.lengths)


def pack(samples: Sequence[Sample]) -> Pack:
    """Lay samples end to end, in the order given."""
    ids, positions, predicts, targets, last, lengths = [], [], [], [], [], []
    offset = 0
    for sample in samples:
        prompt, response = sample.prompt.token_ids, sample.response_ids
        total = len(prompt) + len(response)
        ids += [prompt, response]
        positions.append(np.arange(total))
        predicts.append(np.arange(offset + len(prompt) - 1, offset + total - 1))
        targets.append(response)
        last.append(offset + total - 1)
        lengths.append(len(response))
        offset += total
    return Pack(
        _long(ids)[None], _long(positions)[None], _long(predicts), _long(targets), torch.tensor(last), lengths,
    )


def cut(tokens: Sequence[int], budget: int) -> list[range]:
    """Cut a batch into micro-batches of at most `budget` tokens, in order; a longer sample goes alone.

    tokens: length of each sample. Returns ranges of places in the batch: the cut depends on nothing but
    the order and the lengths, so a batch is cut alike whenever and wherever it is cut.
    """
    cuts, start, filled = [], 0, 0
    for place, length in enumerate(tokens):
        if place > start and filled + length > budget:
            cuts.append(range(start, place))
            start, filled = place, 0
        filled += length
    if len(tokens) > start:
        cuts.append(range(start, len(tokens)))
    return cuts


def _long(parts: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))
