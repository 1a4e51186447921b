"""Batches by token budget, and what happens when memory runs out."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from nncift_core.batching import TokenBudget, is_out_of_memory, plan_batches, slack_of
from nncift_core.errors import RunError


def batches_of(budget: TokenBudget, lengths: list[int]) -> list[list[int]]:
    found: list[list[int]] = []
    budget.run(np.array(lengths, np.int64), lambda batch: found.append(batch.tolist()))
    return found


class Memory:
    """Holds so many tokens; more raise `error`. Keeps what was computed, in order."""

    def __init__(self, tokens: int, lengths: list[int], error: Exception | None = None) -> None:
        self.tokens, self.lengths = tokens, np.array(lengths, np.int64)
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.done: list[list[int]] = []
        self.tried: list[int] = []

    def work(self, batch: np.ndarray) -> None:
        held = int(self.lengths[batch].max()) * len(batch)
        self.tried.append(held)
        if held > self.tokens:
            raise self.error
        self.done.append(batch.tolist())


def test_batches_are_longest_first_and_within_the_limit() -> None:
    lengths = [3, 10, 4, 4, 30, 1]
    assert batches_of(TokenBudget(12), lengths) == [[4], [1], [2, 3, 0], [5]]
    assert [b.tolist() for b in plan_batches(np.array(lengths), 12)] == [[4], [1], [2, 3, 0], [5]]
    assert batches_of(TokenBudget(12), []) == [] == list(plan_batches(np.array([], np.int64), 12))
    assert batches_of(TokenBudget(10), [0, 0]) == [[0, 1]]


def test_a_batch_closes_before_its_padding_exceeds_the_slack() -> None:
    lengths = [20, 18, 15, 15, 3]
    # Padding of the first three: 2 + 5; the fourth would add 5 more.
    assert batches_of(TokenBudget(1000, slack=7), lengths) == [[0, 1, 2], [3], [4]]
    assert batches_of(TokenBudget(1000, slack=12), lengths) == [[0, 1, 2, 3], [4]]
    assert batches_of(TokenBudget(1000), lengths) == [[0, 1, 2, 3, 4]]
    assert slack_of("cuda:1") > slack_of("cpu") > 0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_limit_for_good_and_loses_nothing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(30, [10] * 12, error)
    budget = TokenBudget(100, device="cuda:0")
    with caplog.at_level(logging.WARNING):
        budget.run(memory.lengths, memory.work)
    assert memory.tried[:3] == [100, 50, 20] and budget.tokens == 25
    assert sorted(k for batch in memory.done for k in batch) == list(range(12))
    assert [r.message for r in caplog.records] == [
        "memory of cuda:0 does not hold 100 tokens at once: going on with 50 (language_model.batch_tokens)",
        "memory of cuda:0 does not hold 50 tokens at once: going on with 25 (language_model.batch_tokens)",
    ]
    again = Memory(30, [10] * 4)
    budget.run(again.lengths, again.work)
    assert again.tried == [20, 20]


def test_a_batch_that_the_slack_closed_early_is_split_too() -> None:
    memory = Memory(10, [8, 8, 1])
    budget = TokenBudget(10_000, slack=1)
    budget.run(memory.lengths, memory.work)
    assert memory.done == [[0], [1], [2]] and budget.tokens == 8


def test_one_sequence_that_does_not_fit_stops_the_run_and_says_so() -> None:
    memory = Memory(30, [40, 10])
    with pytest.raises(
        RunError, match="one sequence of 40 tokens does not fit into the memory of cuda:0: leave"
    ):
        TokenBudget(100, device="cuda:0").run(memory.lengths, memory.work)
    assert memory.done == []


def test_other_errors_pass_through() -> None:
    assert not is_out_of_memory(ValueError("out of memory"))
    memory = Memory(5, [10], RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        TokenBudget(100).run(memory.lengths, memory.work)


@pytest.mark.parametrize("limit", [10_000, 40, 21, 20, 7])
@pytest.mark.parametrize("memory", [10_000, 25, 10])
def test_blocks_cover_the_grid_once_whatever_memory_holds(limit: int, memory: int) -> None:
    lengths = np.array([10, 2, 7, 7, 1])
    seen = np.zeros((4, 5), np.int64)
    budget = TokenBudget(limit, slack=6)

    def work(rows: slice, columns: np.ndarray) -> None:
        height = rows.stop - rows.start
        held = int(lengths[columns].max()) * len(columns) * height
        assert held <= max(budget.tokens, int(lengths[columns].max()))
        if held > memory:
            raise torch.OutOfMemoryError
        seen[rows, columns] += 1

    budget.run_blocks(4, lengths, work)
    np.testing.assert_array_equal(seen, 1)


def test_single_makes_every_batch_one_sequence() -> None:
    assert batches_of(TokenBudget(1000, single=True), [3, 5, 4, 4]) == [[1], [2], [3], [0]]
    seen = np.zeros((3, 2), np.int64)

    def work(rows: slice, columns: np.ndarray) -> None:
        assert rows.stop - rows.start == len(columns) == 1
        seen[rows, columns] += 1

    TokenBudget(1000, single=True).run_blocks(3, np.array([2, 5]), work)
    np.testing.assert_array_equal(seen, 1)
