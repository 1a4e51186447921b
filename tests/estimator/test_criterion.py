"""Measures of held-out predictions and the one number made of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from estimator.made_estimators import block

from nncift_core.estimator import criterion
from nncift_core.estimator.criterion import combined, mean_measures, measure, measure_audit

RNG = np.random.default_rng(0)
ROW, COLUMN = block(np.arange(12), np.arange(5))
TRUTH = RNG.normal(size=60)


def measured(predicted, rule="top-k", share=0.25, truth=TRUTH, rows=ROW, columns=COLUMN):
    return measure(truth, predicted, rows, columns, rule=rule, share=share)


@pytest.mark.parametrize("rule", ["top-k", "fl"])
def test_the_truth_itself_is_perfect_and_a_constant_is_nothing(rule):
    assert set(measured(TRUTH, rule).values()) == {1.0}
    nothing = measured(np.full(60, TRUTH.mean()), rule)
    # The top 10 % of 12 rows is one row.
    assert nothing.pop("recall") == pytest.approx(1 / 12)
    assert all(value == pytest.approx(0, abs=1e-12) for value in nothing.values())


@pytest.mark.parametrize("rule", ["top-k", "fl", "flmi", "flcg"])
def test_column_effects_alone_select_nothing(rule):
    assert measured(COLUMN * 0.1, rule)["gain"] == pytest.approx(0, abs=1e-12)
    assert measured(COLUMN * 0.1, rule)["score_spearman"] == 0.0


def test_gain_of_top_k_by_hand():
    truth = np.array([1.0, 2, 3, 4, 5, 6, 7, 8])
    rows, columns = block(np.arange(4), np.arange(2))
    # Mean scores 1.5 3.5 5.5 7.5; random 4.5, best one 7.5, the one picked 5.5.
    predicted = np.array([0.0, 0, 0, 0, 9, 9, 1, 1])
    got = measure(truth, predicted, rows, columns, rule="top-k", share=0.25)
    assert got["gain"] == pytest.approx(1 / 3)
    # All rows selected: every subset is the same.
    assert measure(truth, predicted, rows, columns, rule="top-k", share=1)["gain"] is None


def test_gain_of_facility_location_by_hand():
    truth = np.array([[0.0, 10], [10, 0], [8, 8]])
    rows, columns = block(np.arange(3), np.arange(2))
    predicted = np.array([[0.0, 10], [9, 0], [1, 1]])
    got = measure(truth.ravel(), predicted.ravel(), rows, columns, rule="fl", share=0.4)
    # One row: coverage 10, 10 or 16 (of 10); random 12, best 16, the first picked 10.
    assert got["gain"] == pytest.approx((10 - 12) / (16 - 12))


def test_expected_coverage_is_that_of_all_subsets():
    similarity = RNG.random((7, 4))
    for k in (1, 2, 5, 7):
        every = [similarity[list(a)].max(axis=0).sum() for a in combinations(range(7), k)]
        assert criterion._expected_coverage(similarity, k) == pytest.approx(np.mean(every))


def test_scattered_pairs():
    kept = np.sort(RNG.permutation(60)[:45])
    given = {"truth": TRUTH[kept], "rows": ROW[kept], "columns": COLUMN[kept]}
    assert measured(TRUTH[kept], "fl", **given)["gain"] is None
    assert measured(TRUTH[kept], "top-k", **given)["gain"] == pytest.approx(1)


def test_what_the_truth_does_not_define_is_none():
    few = measured(TRUTH[:2], truth=TRUTH[:2], rows=ROW[:2], columns=COLUMN[:2])
    assert set(few.values()) == {None}
    four = {"truth": TRUTH[:20], "rows": ROW[:20], "columns": COLUMN[:20]}
    # Four rows: no column has five pairs.
    assert measured(TRUTH[:20], **four)["spearman_per_target"] is None
    assert measured(TRUTH[:20], **four)["recall"] is None
    assert set(measured(TRUTH, truth=np.ones(60)).values()) == {None}


def test_audit_is_centred_only_where_columns_repeat():
    predicted = TRUTH + RNG.normal(size=60)
    full = measure_audit(TRUTH, predicted, COLUMN)
    assert full["audit_spearman_centred"] is not None and 0 < full["audit_spearman"] < 1
    assert measure_audit(TRUTH, predicted, np.arange(60))["audit_spearman_centred"] is None
    assert measure_audit(TRUTH, np.zeros(60), COLUMN)["audit_spearman"] == 0.0
    assert set(measure_audit(np.ones(60), predicted, COLUMN).values()) == {None}


def test_the_mean_of_folds_leaves_out_what_a_fold_lacks():
    got = mean_measures([{"a": 1.0, "b": None}, {"a": 2.0, "b": 4.0}, {"a": None, "c": None}])
    assert got == {"a": 1.5, "b": 4.0, "c": None}


def test_the_criterion_by_hand():
    measures = {
        "gain": 0.5,
        "score_spearman": 0.3,
        "recall": 0.2,
        "spearman_per_target": 0.1,
        "spearman": 0.6,
        "spearman_centred": None,
        "r2": -7.0,
        "audit_spearman": 0.2,
    }
    ranking = (0.6 + 0.1 - 1) / 3
    assert combined(measures, "top-k") == pytest.approx((0.4 + ranking + 0.2) / 3)
    assert combined(measures, "flmi") == pytest.approx((0.8 / 3 + ranking + 0.2) / 3)
    assert combined({"audit_r2": 0.4}, "fl") == pytest.approx(0.4)
    assert combined({"recall": None}, "fl") is None


def test_the_rule_that_follows_decides():
    # One ranks rows by their mean and nothing else, the other ranks within columns and spoils the means.
    matrix = RNG.normal(size=(40, 8)) + 0.4 * RNG.normal(size=(40, 1))
    rows, columns = block(np.arange(40), np.arange(8))
    means = np.repeat(matrix.mean(axis=1, keepdims=True), 8, axis=1)
    within = matrix - means + 0.7 * RNG.normal(size=(40, 1))
    for rule, better in (("top-k", "means"), ("fl", "within")):
        got = {
            name: combined(measure(matrix.ravel(), x.ravel(), rows, columns, rule=rule, share=0.1), rule)
            for name, x in (("means", means), ("within", within))
        }
        assert max(got, key=got.get) == better
