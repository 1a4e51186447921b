"""Which rows a step takes: order, batches, a budget of tokens, rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from finetune.small import FAST

from nncift_core.config import FinetuneConfig
from nncift_core.finetune.schedule import Step, learning_rate, micro_batch, plan_steps

LENGTHS = np.array([3, 9, 4, 1, 7, 7, 2, 8, 5, 6])


def plan(lengths: Any = LENGTHS, seed: int = 3, parts: int = 1, **settings: Any) -> list[Step]:
    return plan_steps(np.array(lengths), FinetuneConfig(**{**FAST, **settings}), seed, parts)


@pytest.mark.parametrize(
    ("longest", "batch_size", "batch_tokens", "micro"),
    [(100, 16, 8192, 16), (100, 16, 800, 8), (100, 16, 1599, 8), (100, 6, 500, 3), (9000, 16, 8192, 1)],
)
def test_micro_batch_is_a_divisor_that_fits(
    longest: int, batch_size: int, batch_tokens: int, micro: int
) -> None:
    assert micro_batch(longest, batch_size, batch_tokens) == micro


def test_every_pass_has_an_order_of_its_own_longest_first_within_a_step() -> None:
    steps = plan(epochs=3)
    assert [step.ends_pass for step in steps] == [False, False, True] * 3
    orders = []
    for start in range(0, 9, 3):
        rows = [row for step in steps[start : start + 3] for row in step.rows]
        assert sorted(rows) == list(range(10))
        orders.append(tuple(rows))
    for step in steps:
        lengths = LENGTHS[step.rows].tolist()
        assert lengths == sorted(lengths, reverse=True)
    assert len(set(orders)) == 3
    assert plan(epochs=3) == steps and plan(epochs=3, seed=4) != steps


def test_a_budget_of_tokens_ends_with_the_row_that_reaches_it() -> None:
    whole = int(LENGTHS.sum())
    for budget in (1, 20, whole - 1, whole, whole + 1, 3 * whole + 17):
        steps = plan(tokens=budget, epochs=3)
        seen = [row for step in steps for row in step.rows]
        total = int(LENGTHS[seen].sum())
        # A step's rows are sorted by length, so which was drawn last is not told: the longest bounds it.
        assert budget <= total < budget + int(LENGTHS.max())
        assert steps[-1].ends_pass and max(np.bincount(seen)) - min(np.bincount(seen, minlength=10)) <= 1


def test_a_budget_of_whole_passes_is_that_many_epochs() -> None:
    assert plan(tokens=2 * int(LENGTHS.sum()), epochs=3) == plan(epochs=2)


def test_packed_batches_hold_every_row_once_and_keep_to_the_room() -> None:
    lengths = [30, 60, 64, 10, 5, 33, 20, 64, 9, 70]
    steps = plan(lengths, packing=True, batch_tokens=64, batch_size=8, epochs=1)
    assert sorted(row for step in steps for row in step.rows) == list(range(10))
    batches = [batch for step in steps for batch in step.batches]
    for batch in batches:
        assert sum(lengths[row] for row in batch) <= 64 or len(batch) == 1
    assert len(batches) < 10


@pytest.mark.parametrize("packing", [False, True])
def test_several_processes_get_a_batch_each(packing: bool) -> None:
    for step in plan([10] * 16, packing=packing, batch_size=8, parts=4):
        assert len(step.batches) >= 4 and len(step.rows) == 8


def test_the_rate_rises_and_falls_and_a_single_step_has_one() -> None:
    own = FinetuneConfig(learning_rate=1.0, warmup=0.4)
    assert [learning_rate(k, 5, own) for k in range(5)] == pytest.approx([0, 0.5, 1, 2 / 3, 1 / 3])
    assert learning_rate(0, 1, FinetuneConfig(learning_rate=0.5, warmup=1)) == 0.5
