"""Which samples make each optimizer step, and how a step is cut into forwards over the workers.

A step has exactly `batch_size` samples whatever the number of workers and the micro-batch: where the sizes do not
divide, the step is filled up with rows that weigh nothing, so that the gradient does not depend on the cut.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scale_rlhf.config.schema import SupervisedSection

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
    max_steps ends earlier. Inside a step samples go by length: forwards pad less, and the gradient is the same.
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
    for step in range(steps):
        batch = stream[step * section.batch_size : (step + 1) * section.batch_size]
        order[step, : len(batch)] = batch[np.argsort(-lengths[batch], kind="stable")]
    return Layout(order.reshape(-1), steps, per_device, accumulation, slots)
