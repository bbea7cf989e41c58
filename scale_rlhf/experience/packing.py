"""Packing: many samples in few rows with little padding, and how a batch is cut into micro-batches.

Position ids start again at every sample; with no attention mask and no cache, transformers keeps packed samples apart
(exact for sdpa and eager, variable-length kernels for flash attention). Those kernels take one long row. The others
compute every pair of positions in a row, also of samples that must not see each other: for them rows are as long as the
longest sample, and short samples share one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scale_rlhf.experience.sample import Sample


@dataclass(frozen=True)
class Pack:
    """One forward. R rows of T places, N response tokens, S samples; places are counted through all rows, row·T + place."""

    input_ids: torch.Tensor  # [R, T]
    position_ids: torch.Tensor  # [R, T]
    predicts: torch.Tensor  # [N] places whose logits predict a response token, and whose state has its value
    targets: torch.Tensor  # [N] the response tokens
    last: torch.Tensor  # [S] place of each sample's last token, where a score is read
    lengths: list[int]  # [S] response lengths: splits [N] back into samples

    def to(self, device: torch.device | str) -> "Pack":
        tensors = (t.to(device) for t in (self.input_ids, self.position_ids, self.predicts, self.targets, self.last))
        return Pack(*tensors, self.lengths)


def in_rows(attention: str) -> bool:
    """Whether samples are packed in several rows for this attention kernel (model.attention)."""
    return attention != "flash_attention_2"


def pack(samples: Sequence[Sample], rows: bool = False) -> Pack:
    """Lay samples end to end, in the order given, in one row; or in rows as long as the longest sample."""
    lengths = [sample.tokens for sample in samples]
    width = max(lengths) if rows else sum(lengths)
    starts, count = _starts(lengths, width)
    ids, positions = np.zeros(count * width, np.int64), np.tile(np.arange(width), count)
    predicts, targets, last = [], [], []
    for sample, start, total in zip(samples, starts, lengths, strict=True):
        prompt, response = sample.prompt.token_ids, sample.response_ids
        ids[start : start + total] = np.concatenate([prompt, response])
        positions[start : start + total] = np.arange(total)
        predicts.append(np.arange(start + len(prompt) - 1, start + total - 1))
        targets.append(response)
        last.append(start + total - 1)
    return Pack(
        torch.from_numpy(ids).view(count, width), torch.from_numpy(positions).view(count, width), _long(predicts),
        _long(targets), torch.tensor(last), [len(sample.response_ids) for sample in samples],
    )


def _starts(lengths: Sequence[int], width: int) -> tuple[list[int], int]:
    """Where each sample begins, and how many rows there are: the longest first, each into the first row that has room.

    What is left of a row is padding. It follows the last sample with positions that go on: no real token sees a later one,
    so a row of one sample needs no mask. Samples that fill one row lie in the order given.
    """
    if sum(lengths) <= width:
        return [sum(lengths[:place]) for place in range(len(lengths))], 1
    filled: list[int] = []
    starts = [0] * len(lengths)
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        row = next((row for row, used in enumerate(filled) if used + lengths[place] <= width), len(filled))
        if row == len(filled):
            filled.append(0)
        starts[place] = row * width + filled[row]
        filled[row] += lengths[place]
    return starts, len(filled)


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
