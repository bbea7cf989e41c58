"""Which samples make each optimizer step, and how a step is cut into forwards over the workers.

A step has exactly `batch_size` samples whatever the number of workers and the micro-batch: where the sizes do not
divide, the step is filled up with rows that weigh nothing, so that the gradient does not depend on the cut.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scale_rlhf.config.supervised import SupervisedSection

FILLER = -1


@dataclass(frozen=True)
class Layout:
    """order: [steps · slots] places of samples, FILLER where a row weighs nothing; step s is order[s·slots : (s+1)·slots].

    A step is `accumulation` forwards of `per_device` rows on each of the workers; forwards are dealt to workers in turn.
    """

    order: np.ndarray
    steps: int
    per_device: int
    accumulation: int
    slots: int

    def samples(self, step: int) -> int:
        """Samples of optimizer step 0, 1, …, fillers not counted."""
        return int((self.order[step * self.slots : (step + 1) * self.slots] != FILLER).sum())


def lay_out(lengths: Sequence[int], section: SupervisedSection, seed: int) -> Layout:
    """The whole of a stage's training, drawn from `seed`: `epochs` passes over the samples, each in an order of its own.

    lengths: tokens of each sample. Passes follow one another without a border, so only the last step can be short;
    max_steps ends earlier. Inside a step samples go by length: forwards pad less, and the gradient is the same. With
    section.sorted_batches above 1 the samples of so many steps do, and then the steps are shuffled: less padding still, but
    other batches.
    """
    samples, lengths = len(lengths), np.asarray(lengths)
    total = max(1, round(section.epochs * samples))
    steps = math.ceil(total / section.batch_size)
    if section.max_steps is not None and section.max_steps < steps:
        steps = section.max_steps
        total = steps * section.batch_size
    per_worker = math.ceil(section.batch_size / section.workers)
    accumulation = math.ceil(per_worker / section.microbatch)
    per_device = math.ceil(per_worker / accumulation)
    slots = section.workers * accumulation * per_device
    random = np.random.default_rng(seed)
    stream = np.concatenate([random.permutation(samples) for _ in range(math.ceil(total / samples))])[:total]
    order = np.full((steps, slots), FILLER)
    together = section.sorted_batches * section.batch_size
    batches = (batch for start in range(0, total, together)
               for batch in _by_length(stream[start : start + together], lengths, section.batch_size, random))
    for step, batch in enumerate(batches):
        order[step, : len(batch)] = batch
    return Layout(order.reshape(-1), steps, per_device, accumulation, slots)


def _by_length(samples: np.ndarray, lengths: np.ndarray, size: int, random: np.random.Generator) -> list[np.ndarray]:
    """Batches of `size`, the longest samples first in each; what is left over makes a smaller one, which stays the last.

    A single batch draws nothing from `random`.
    """
    left = len(samples) % size
    whole, rest = samples[: len(samples) - left], samples[len(samples) - left :]  # the rest: drawn by chance, as the whole was
    whole, rest = (part[np.argsort(-lengths[part], kind="stable")] for part in (whole, rest))
    batches = [whole[start : start + size] for start in range(0, len(whole), size)]
    places = random.permutation(len(batches)) if len(batches) > 1 else range(len(batches))
    return [batches[place] for place in places] + ([rest] if left else [])
