"""What one update is made from, and how it is cut: minibatches, ranks, micro-batches. Pure functions of places.

A place is a sample's number in the batch, and batches are in the order of sample indices: the cut depends on the run's
seed, the version, the epoch and the lengths, never on timing. Every sample is used once an epoch, whatever divides what.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from scale_rlhf.experience.packing import Pack, cut, pack
from scale_rlhf.experience.sample import Prompt, Sample


@dataclass(frozen=True)
class TrainingBatch:
    """B scored samples, oldest admission first."""

    samples: list[Sample]
    scores: np.ndarray  # float32 [B]
    reference_logprobs: list[np.ndarray]  # B of float32 [response tokens]
    kl_coefficient: float  # β, per nat
    proximal: list[np.ndarray] | None = None  # the policy's log-probabilities before the update, where it anchors the loss
    baselines: np.ndarray | None = None  # float32 [B], the reward of the greedy response to each one's prompt, where asked for

    @property
    def anchor(self) -> list[np.ndarray]:
        """What the PPO ratio and the KL penalty are taken against: B of float32 [response tokens]."""
        return self.proximal or [sample.logprobs for sample in self.samples]

    def response_tokens(self) -> int:
        """Response tokens of the batch."""
        return sum(len(sample.response_ids) for sample in self.samples)


@dataclass(frozen=True)
class Minibatch:
    """What one optimizer step is made of, on all ranks: the counts that a loss is divided by."""

    tokens: int  # of responses
    sequences: int


def penalised_scores(batch: TrainingBatch, missing_end_penalty: float | None) -> torch.Tensor:
    """Scores with the penalty of responses that never ended: float32 [B]."""
    scores = torch.from_numpy(np.array(batch.scores, dtype=np.float32))
    if missing_end_penalty is None:
        return scores
    unended = torch.tensor([not sample.ended for sample in batch.samples])
    return scores + missing_end_penalty * unended


def minibatches(size: int, count: int, *, seed: int, version: int, epoch: int) -> list[np.ndarray]:
    """Places 0 … size − 1 in random order, as at most `count` slices whose sizes differ by one at most.

    The order follows from the run's seed, the version that is trained and the epoch. With fewer samples than
    slices there are fewer slices: an optimizer step on nothing would still move the weights.
    """
    order = np.random.default_rng([seed, version, epoch]).permutation(size)
    return [np.sort(part) for part in np.array_split(order, min(count, size))]


def deal(places: Sequence[int], tokens: Sequence[int], ranks: int) -> list[list[int]]:
    """Places for each rank, by length: the longest first, each to the rank with the fewest tokens so far.

    tokens: length of the sample at each place of the batch. A rank may get none. Within a rank places ascend.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for place in sorted(places, key=lambda place: (-tokens[place], place)):
        lightest = load.index(min(load))
        shares[lightest].append(int(place))
        load[lightest] += tokens[place]
    return [sorted(share) for share in shares]


def microbatches(places: Sequence[int], tokens: Sequence[int], *, ranks: int, budget: int) -> list[list[list[int]]]:
    """[ranks][forwards] lists of places: every rank makes the same number of forwards, as ZeRO 3 needs.

    budget: tokens of one forward. An empty list stands for a forward of zero loss.
    """
    plan = []
    for share in deal(places, tokens, ranks):
        share = sorted(share, key=lambda place: (tokens[place], place))  # alike in length: rows with little padding
        cuts = cut([tokens[place] for place in share], budget)
        plan.append([[share[i] for i in part] for part in cuts])
    forwards = max(1, max(len(rank) for rank in plan))
    return [rank + [[]] * (forwards - len(rank)) for rank in plan]


def forwards(
    samples: Sequence[Sample], places: Sequence[int], *, rank: int, ranks: int, budget: int, rows: bool = False,
) -> Iterator[tuple[Pack, list[int]]]:
    """This rank's forwards over `places`: (pack, places), the places empty where the pack only keeps step with other ranks."""
    tokens = [sample.tokens for sample in samples]
    for part in microbatches(places, tokens, ranks=ranks, budget=budget)[rank]:
        yield (pack([samples[place] for place in part], rows), part) if part else (pack([_FILLER]), [])


def flat(arrays: Sequence[np.ndarray], places: Sequence[int], device: torch.device | str) -> torch.Tensor:
    """The per-token arrays of these places end to end, as a pack has them: float32 [N]. No places: one zero, the filler's."""
    parts = [np.asarray(arrays[place], dtype=np.float32) for place in places] or [np.zeros(1, np.float32)]
    return torch.from_numpy(np.concatenate(parts)).to(device)


def in_rows(values: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """[N] of a pack as [S, longest], a row a sample, right-padded with 0 (False)."""
    return nn.utils.rnn.pad_sequence(values.split(list(lengths)), batch_first=True)


def padded(arrays: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-token arrays as float32 [B, longest], right-padded with 0, and the mask: bool, True on real tokens."""
    longest = max(len(array) for array in arrays)
    values, mask = torch.zeros(len(arrays), longest), torch.zeros(len(arrays), longest, dtype=torch.bool)
    for row, array in enumerate(arrays):
        values[row, : len(array)] = torch.from_numpy(np.array(array, dtype=np.float32))
        mask[row, : len(array)] = True
    return values, mask


def ragged(values: torch.Tensor, mask: torch.Tensor) -> list[np.ndarray]:
    """The inverse of `padded`: B of float32 [response tokens]."""
    return [row[seen].float().numpy() for row, seen in zip(values.cpu(), mask.cpu(), strict=True)]


_FILLER = Sample(
    Prompt(-1, -1, np.zeros(1, np.int32)), np.zeros(1, np.int32), np.zeros(1, np.float32), np.zeros(1, np.int32), True,
)
