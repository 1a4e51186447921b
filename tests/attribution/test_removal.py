"""QLD and leave-top-k-out, and the rows that are left out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nncift_core.attribution import keep_subsets, removal_effect, removals, top_rows

IDS = np.arange(50) * 7919 + 13


def test_the_rise_beyond_random_is_measured_with_both_doubts() -> None:
    random = np.array([[1.0, 2.0, 3.0], [1.2, 2.2, 3.2], [0.8, 1.8, 2.8]])
    effect = removal_effect(np.array([2.0, 3.0, 4.0]), random, one_model=False)
    # The rise is 1 for every query: only the random draws leave a doubt, Student's with 2 degrees of freedom.
    assert effect.value == pytest.approx(1) and effect.n == 3
    assert effect.upper - effect.value == pytest.approx(2.91999 * 0.2 / math.sqrt(3), rel=1e-4)
    # One model for all queries is one such draw itself.
    one = removal_effect(np.array([2.0, 3.0, 4.0]), random, one_model=True)
    assert one.upper - one.value == pytest.approx(2.91999 * 0.2 * math.sqrt(1 + 1 / 3), rel=1e-4)


def test_removing_what_random_removes_is_no_effect() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(100):
        losses = 3 + rng.normal(size=(6, 1)) * 0.1 + rng.normal(size=(6, 20)) * 0.05
        effect = removal_effect(losses[0], losses[1:], one_model=True)
        inside += effect.lower <= 0 <= effect.upper
    assert inside >= 82


def test_one_random_removal_gives_no_interval_and_none_is_refused() -> None:
    assert math.isnan(removal_effect(np.ones(3), np.ones((1, 3)), one_model=True).lower)
    with pytest.raises(ValueError, match="no effect"):
        removal_effect(np.ones(3), np.ones((0, 3)), one_model=True)


def test_subsets_are_of_one_size_and_stay_when_rows_or_models_are_added() -> None:
    few, more = keep_subsets(IDS, 5, 0.4, seed=1), keep_subsets(IDS, 9, 0.4, seed=1)
    assert [len(s) for s in few] == [20] * 5
    assert all((a == b).all() for a, b in zip(few, more, strict=False))
    assert len({tuple(s) for s in more}) == 9
    # In another order of the file the same rows are drawn.
    order = np.random.default_rng(0).permutation(len(IDS))
    moved = keep_subsets(IDS[order], 5, 0.4, seed=1)
    assert all(set(IDS[a]) == set(IDS[order][b]) for a, b in zip(few, moved, strict=True))
    # With two more rows one row's place at most is each one's.
    grown = np.append(IDS, [5, 6])
    for a, b in zip(few, keep_subsets(grown, 5, 20 / 52, seed=1), strict=True):
        assert len(set(IDS[a]) - set(grown[b])) <= 2
    assert len(keep_subsets(IDS, 1, 0.999, seed=0)[0]) == 49


def test_top_rows_are_the_highest_and_ties_do_not_go_by_place() -> None:
    scores = np.zeros(50)
    scores[[3, 30]] = 1
    assert top_rows(scores, 2, IDS, seed=0).tolist() == [3, 30]
    four = top_rows(scores, 12, IDS, seed=0)
    assert {3, 30} < set(four.tolist()) and four.tolist() != [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 30]
    out = removals(IDS, 3, 5, seed=0)
    assert [len(o) for o in out] == [5, 5, 5] and len({tuple(o) for o in out}) == 3
