"""When things happen in a training: order of rows, rate, looks, checkpoints."""

from __future__ import annotations

import numpy as np
import pytest

from nncift_core.classification.schedule import (
    batches,
    checkpoint_steps,
    logging_points,
    rate_factor,
    steps_per_epoch,
    total_steps,
)
from nncift_core.config_prune import TrainingConfig


@pytest.mark.parametrize(("n", "size"), [(1, 4), (8, 4), (10, 4), (3, 128)])
def test_every_row_is_in_one_batch_of_an_epoch(n, size):
    found = batches(n, size, seed=3, epoch=0)
    assert sorted(np.concatenate(found).tolist()) == list(range(n))
    assert len(found) == steps_per_epoch(n, size)
    assert all(len(b) == size for b in found[:-1]) and 1 <= len(found[-1]) <= size


def test_the_order_follows_from_seed_and_epoch_and_differs_between_them():
    orders = {
        (seed, epoch): np.concatenate(batches(50, 8, seed, epoch)).tolist()
        for seed in (0, 1) for epoch in (0, 1)
    }  # fmt: skip
    assert len({tuple(o) for o in orders.values()}) == 4
    assert all(np.concatenate(batches(50, 8, s, e)).tolist() == o for (s, e), o in orders.items())


def test_without_warm_up_the_rate_falls_in_a_line_and_is_above_0_at_the_last_step():
    factors = [rate_factor(k, 10, 0.0) for k in range(10)]
    assert factors == pytest.approx([1 - k / 10 for k in range(10)])
    assert factors[-1] > 0


@pytest.mark.parametrize(
    ("total", "warmup", "rise"), [(10, 0.4, 4), (10, 0.04, 0), (100, 0.1, 10), (1, 0, 0)]
)
def test_with_warm_up_the_rate_rises_to_1_and_then_falls(total, warmup, rise):
    factors = np.array([rate_factor(k, total, warmup) for k in range(total)])
    assert factors[rise] == 1 == factors.max()
    assert (np.diff(factors[: rise + 1]) > 0).all() and (np.diff(factors[rise:]) < 0).all()
    assert (factors > 0).all()
    assert factors[:rise] == pytest.approx([(k + 1) / (rise + 1) for k in range(rise)])


def test_the_last_step_has_a_rate_above_0_even_where_nearly_all_is_warm_up():
    assert all(rate_factor(k, 7, 0.99) > 0 for k in range(7))


def test_rows_are_looked_at_often_early_and_then_at_the_end_of_every_epoch():
    settings = TrainingConfig(epochs=4, batch_size=10, log_every=4, log_epochs=2)
    # 6 steps an epoch: looks after 4, 8, 12, and epochs end after 6, 12, 18, 24.
    assert logging_points(55, settings) == {4: False, 6: True, 8: False, 12: True, 18: True, 24: True}
    assert total_steps(55, settings) == 24


def test_looks_stop_at_the_end_of_the_training_and_may_be_at_epoch_ends_alone():
    short = TrainingConfig(epochs=1, batch_size=10, log_every=2, log_epochs=9)
    assert list(logging_points(50, short)) == [2, 4, 5]
    none = TrainingConfig(epochs=3, batch_size=10, log_every=1, log_epochs=0)
    assert logging_points(50, none) == {5: True, 10: True, 15: True}
    rare = TrainingConfig(epochs=2, batch_size=10, log_every=50, log_epochs=2)
    assert logging_points(50, rare) == {5: True, 10: True}


@pytest.mark.parametrize(("total", "count"), [(100, 10), (7, 3), (10, 10), (3, 10), (1, 2)])
def test_checkpoints_are_spread_evenly_and_the_last_is_at_the_end(total, count):
    steps = checkpoint_steps(total, count)
    assert steps == sorted(set(steps)) and steps[0] >= 1 and steps[-1] == total
    assert len(steps) == min(total, count)
    gaps = np.diff([0, *steps])
    assert gaps.max() - gaps.min() <= 1
