"""Top-k: order, ties and their count."""

from __future__ import annotations

import numpy as np
import pytest

from nncift_core.selection import top_k

SCORES = np.array([0.5, -1.0, 0.5, 2.0, 0.5, 0.0], np.float32)


def test_highest_first_equal_scores_by_index() -> None:
    selection = top_k(SCORES, 6)
    assert selection.order.tolist() == [3, 0, 2, 4, 5, 1]
    assert selection.order.dtype == np.int64
    assert selection.gains.tolist() == [2.0, 0.5, 0.5, 0.5, 0.0, -1.0]
    assert selection.gains.dtype == np.float64
    assert (selection.ties, selection.positive) == (2, 4)


@pytest.mark.parametrize(("budget", "ties"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 2)])
def test_ties_count_rows_left_out_too(budget: int, ties: int) -> None:
    assert top_k(SCORES, budget).ties == ties


def test_tie_break_orders_equal_scores_lowest_first_then_by_index() -> None:
    tie_break = np.array([2**64 - 1, 0, 7, 1, 7, 3], np.uint64)
    assert top_k(SCORES, 4, tie_break).order.tolist() == [3, 2, 4, 0]


def test_tie_break_makes_the_choice_independent_of_the_order_of_rows() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, 200).astype(np.float64)
    tie_break = rng.permutation(200).astype(np.uint64)
    shuffle = rng.permutation(200)
    plain = top_k(scores, 60, tie_break).order
    shuffled = shuffle[top_k(scores[shuffle], 60, tie_break[shuffle]).order]
    assert plain.tolist() == shuffled.tolist()
    assert plain.tolist() != top_k(scores, 60).order.tolist()


def test_objective_is_the_sum_of_the_chosen_scores() -> None:
    selection = top_k(np.array([1.0, -2.0, 4.5]), 2)
    assert (selection.objective, selection.mode, selection.gap) == (5.5, "exact", None)


def test_negative_zero_equals_zero() -> None:
    selection = top_k(np.array([-0.0, 0.0]), 2)
    assert (selection.order.tolist(), selection.ties) == ([0, 1], 1)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scores\[candidate 1\] is nan"):
        top_k(np.array([1.0, np.nan]), 1)
    with pytest.raises(ValueError, match=r"budget is 7, but must lie in 1\.\.6"):
        top_k(SCORES, 7)
    with pytest.raises(ValueError, match=r"scores has shape \(1, 6\)"):
        top_k(SCORES[None], 1)
    with pytest.raises(ValueError, match=r"tie_break is int64 \(6,\), but must be uint64 \(6,\)"):
        top_k(SCORES, 1, np.zeros(6, np.int64))
