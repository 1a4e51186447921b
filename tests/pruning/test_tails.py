"""Overlap of the tails of scores."""

from __future__ import annotations

import numpy as np
import pytest

from nncift_core.pruning.tails import tail_overlap

UP = np.arange(100.0)


def overlaps(difficulty, share):
    return {(r["tail"], r["score_a"], r["score_b"]): r["overlap"] for r in tail_overlap(difficulty, share)}


def test_equal_orders_overlap_wholly_and_opposite_ones_not_at_all():
    got = overlaps({"a": UP, "b": 2 * UP, "c": -UP}, 0.1)
    assert len(got) == 2 * 9
    for tail in ("easy", "hard"):
        assert got[tail, "a", "b"] == got[tail, "a", "a"] == 1
        assert got[tail, "a", "c"] == got[tail, "c", "b"] == 0


def test_the_two_tails_are_told_apart():
    other = UP.copy()
    other[90:] = other[90:][::-1]
    other[:10] = 50
    got = overlaps({"a": UP, "b": other}, 0.1)
    assert got["hard", "a", "b"] == 1 and got["easy", "a", "b"] == 0


def test_ties_count_as_if_broken_at_random():
    flat = overlaps({"a": UP, "flat": np.zeros(100)}, 0.2)
    assert flat["hard", "a", "flat"] == pytest.approx(0.2)
    assert flat["hard", "flat", "flat"] == pytest.approx(0.2)


def test_unrelated_scores_overlap_as_chance_has_it():
    a, b = np.random.default_rng(0).normal(size=(2, 20_000))
    assert overlaps({"a": a, "b": b}, 0.1)["hard", "a", "b"] == pytest.approx(0.1, abs=0.02)


def test_wrong_input_is_refused():
    for share in (0, 1.5):
        with pytest.raises(ValueError, match="share"):
            tail_overlap({"a": UP}, share)
    with pytest.raises(ValueError, match="b is"):
        tail_overlap({"a": UP, "b": UP[1:]}, 0.1)
    with pytest.raises(ValueError, match="a is"):
        tail_overlap({"a": np.full(3, np.nan)}, 0.1)
