"""Finding planted rows: AUC, ranks of copies, answers that are moved round."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nncift_core.attribution import auc, copies_found, swap_partners


def test_auc_counts_pairs_and_ties_as_half() -> None:
    scores = np.array([0.1, 0.5, 0.5, 0.9, 0.3])
    planted = np.array([True, True, False, False, False])
    by_hand = np.mean([1.0 if a < b else 0.5 if a == b else 0.0 for a in scores[:2] for b in scores[2:]])
    assert auc(scores, planted).value == pytest.approx(by_hand)
    assert auc(np.ones(5), planted).value == 0.5
    assert auc(np.arange(5.0), planted).value == 1 and auc(-np.arange(5.0), planted).value == 0
    assert auc(scores, planted).n == 2
    assert math.isnan(auc(scores, np.zeros(5, bool)).value)
    assert math.isnan(auc(scores, np.arange(5) == 0).lower)


def test_the_interval_of_an_auc_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    truth, held = 0.5 * (1 + math.erf(0.5)), 0
    for _ in range(200):
        planted = np.arange(200) < 20
        found = auc(rng.normal(size=200) - planted, planted)
        held += found.lower <= truth <= found.upper
    assert 165 <= held <= 196


def test_copies_are_ranked_for_their_own_query_with_ties_by_chance() -> None:
    values = np.zeros((20, 3))
    values[17, 0] = 1  # first for its query
    values[:15, 1] = 2  # the copy of the second query comes after 15 rows, beside 4 like it
    values[:, 2] = 1  # nothing tells rows apart
    found = copies_found(values, np.array([17, 18, 19]))
    assert found["rank"].value == pytest.approx((1 + 18 + 10.5) / 3)
    assert found["recall@1"].value == pytest.approx((1 + 0 + 1 / 20) / 3)
    assert found["recall@10"].value == pytest.approx((1 + 0 + 10 / 20) / 3)
    assert found["auc"].value == pytest.approx((1 + 2 / 19 + 0.5) / 3)
    assert all(m.lower <= m.value <= m.upper and m.n == 3 for m in found.values())
    assert 0 <= found["recall@1"].lower and found["recall@1"].upper <= 1


def test_every_answer_goes_to_a_row_that_had_another() -> None:
    answers = ["a", "b", "b", "c", "a"]
    partners = swap_partners(answers)
    assert all(answers[p] != answers[k] for k, p in enumerate(partners))
    assert swap_partners(["same", "same"]).tolist() == [-1, -1]
    assert sorted(swap_partners(list("abcd")).tolist()) == [0, 1, 2, 3]
