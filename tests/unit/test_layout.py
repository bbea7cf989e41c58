import numpy as np
import pytest

from scale_rlhf.config.supervised import SupervisedSection
from scale_rlhf.training.layout import FILLER, lay_out


def section(**values):
    return SupervisedSection(**values)


@pytest.mark.parametrize("batch, microbatch, workers", [(32, 16, 1), (30, 16, 4), (7, 2, 3), (1, 16, 2), (31, 8, 2)])
def test_every_batch_size_works_with_every_number_of_workers(batch, microbatch, workers):
    layout = lay_out([5] * 100, section(batch_size=batch, microbatch=microbatch, workers=workers), seed=0)
    assert layout.per_device <= microbatch
    assert layout.slots == layout.per_device * layout.accumulation * workers == len(layout.order) / layout.steps
    assert [layout.samples(step) for step in range(layout.steps - 1)] == [batch] * (layout.steps - 1)
    real = layout.order[layout.order != FILLER]
    assert sorted(real) == list(range(100))  # nothing dropped, nothing repeated


def test_steps_hold_the_same_samples_however_they_are_cut():
    one = lay_out(range(1, 51), section(batch_size=16, microbatch=16), seed=1)
    two = lay_out(range(1, 51), section(batch_size=16, microbatch=3, workers=2), seed=1)
    for step in range(one.steps):
        batches = [set(layout.order[step * layout.slots : (step + 1) * layout.slots]) - {FILLER} for layout in (one, two)]
        assert batches[0] == batches[1]


def test_epochs_and_max_steps():
    assert lay_out([1] * 10, section(batch_size=4, epochs=2.0), 0).steps == 5
    half = lay_out([1] * 10, section(batch_size=4, epochs=0.5), 0)
    assert (half.order != FILLER).sum() == 5
    capped = lay_out([1] * 10, section(batch_size=4, epochs=2.0, max_steps=3), 0)
    assert capped.steps == 3 and (capped.order != FILLER).sum() == 12


def test_each_pass_has_an_order_of_its_own_that_follows_from_the_seed():
    layout = lay_out([1] * 64, section(batch_size=64, epochs=2.0), 0)
    first, second = layout.order[:64], layout.order[64:]
    assert sorted(first) == sorted(second) and list(first) != list(second)
    assert np.array_equal(layout.order, lay_out([1] * 64, section(batch_size=64, epochs=2.0), 0).order)
    assert not np.array_equal(layout.order, lay_out([1] * 64, section(batch_size=64, epochs=2.0), 1).order)


@pytest.mark.parametrize("samples, epochs", [(100, 1.0), (64, 2.0), (50, 0.5), (7, 1.0)])
def test_batches_made_up_by_length_hold_every_sample_once_a_pass(samples, epochs):
    lengths = np.random.default_rng(0).integers(1, 100, samples)
    layout = lay_out(lengths, section(batch_size=8, epochs=epochs, sorted_batches=4), 0)
    real = layout.order[layout.order != FILLER]
    assert len(real) == round(samples * epochs) and max(np.bincount(real)) == max(1, epochs)
    drawn = lay_out(lengths, section(batch_size=8, epochs=epochs), 0).order
    whole = len(real) // 32 * 32
    for start in range(0, whole, 32):  # the same samples were drawn for them
        assert sorted(layout.order[start : start + 32]) == sorted(drawn[start : start + 32])


def test_batches_made_up_by_length_pad_less_and_come_in_an_order_by_chance():
    lengths = np.random.default_rng(0).integers(1, 100, 640)
    widths = {several: lengths[lay_out(lengths, section(batch_size=16, sorted_batches=several), 0).order].reshape(-1, 16).max(1)
              for several in (1, 8)}
    assert widths[8].mean() < 0.7 * widths[1].mean()
    by_draw = widths[8].reshape(-1, 8)
    assert all((np.diff(one) > 0).any() and (np.diff(one) < 0).any() for one in by_draw)


def test_longest_first_inside_a_step():
    lengths = np.random.default_rng(0).integers(1, 100, 64)
    layout = lay_out(lengths, section(batch_size=16), 0)
    for step in range(layout.steps):
        assert (np.diff(lengths[layout.order[step * 16 : (step + 1) * 16]]) <= 0).all()
