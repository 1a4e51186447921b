"""Measures against hand-computed numbers and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nncift_core.estimator import metrics


def a(*values):
    return np.array(values, dtype=np.float64)


def test_average_ranks_of_ties():
    assert metrics.average_ranks(a(10, 20, 20, 5, 20)).tolist() == [2, 4, 4, 1, 4]


def test_correlations_by_hand():
    # Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4: covariance 4.5, sums of squares 4.5 and 5.
    assert metrics.spearman(a(0, 7, 7, 9), a(-1, 5, 4, 6)) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert metrics.pearson(a(1, 2, 3), a(1, 3, 2)) == pytest.approx(0.5)
    assert metrics.pearson(a(1, 2, 3) * 1e-200, a(3, 2, 1)) == -1.0


@pytest.mark.parametrize("measure", [metrics.pearson, metrics.spearman])
def test_correlations_undefined(measure):
    assert measure(a(1, 2, 3), a(4, 4, 4)) is None
    assert measure(a(4, 4, 4), a(1, 2, 3)) is None
    assert measure(a(1, 2), a(1, 2)) is None


def test_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.integers(0, 9, 40).astype(float)
        y = x + rng.integers(-4, 5, 40)
        assert metrics.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
        assert metrics.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)


def test_r_squared_by_hand():
    assert metrics.r_squared(a(1, 2, 3), a(1, 2, 4)) == pytest.approx(0.5)
    assert metrics.r_squared(a(1, 2, 3), a(2, 2, 2)) == 0.0
    assert metrics.r_squared(a(1, 2, 3), a(3, 3, 3)) == pytest.approx(-1.5)
    assert metrics.r_squared(a(2, 2, 2), a(1, 2, 3)) is None
    assert metrics.r_squared(a(1, 2), a(1, 2)) is None


def test_recall_by_hand():
    truth = a(*range(20))
    assert metrics.recall_at_k(truth, truth, 0.1) == 1.0
    assert metrics.recall_at_k(truth, -truth, 0.1) == 0.0
    assert metrics.recall_at_k(truth, np.where(truth == 18, -1, truth), 0.1) == 0.5
    # k is at least 1.
    assert metrics.recall_at_k(a(1, 2, 3), a(1, 2, 3), 0.1) == 1.0


def test_recall_counts_ties_in_expectation():
    truth = a(*range(20))
    assert metrics.recall_at_k(truth, np.zeros(20), 0.1) == pytest.approx(0.1)
    # The two best and two others tied for two places: half of the best expected.
    assert metrics.recall_at_k(truth, np.isin(truth, [0, 1, 18, 19]).astype(float), 0.1) == pytest.approx(0.5)
    assert metrics.recall_at_k(np.zeros(20), truth, 0.1) is None


def test_per_target_spearman():
    columns = np.array([1] * 5 + [2] * 5 + [3] * 4 + [4] * 5)
    up, down = a(1, 2, 3, 4, 5), a(5, 4, 3, 2, 1)
    truth = np.r_[up, up, up[:4], np.ones(5)]
    # Column 3 has too few pairs and column 4 does not vary: (1 - 1) / 2.
    assert metrics.spearman_per_target(truth, np.r_[up, down, up[:4], up], columns) == pytest.approx(0)
    # A constant inside a column ranks nothing there: (1 + 0) / 2, in any order of the pairs.
    predicted = np.r_[up, np.ones(5), up[:4], up]
    shuffle = np.random.default_rng(0).permutation(19)
    got = metrics.spearman_per_target(truth[shuffle], predicted[shuffle], columns[shuffle])
    assert got == pytest.approx(0.5)
    assert metrics.spearman_per_target(truth, columns.astype(float), columns) is None
    assert metrics.spearman_per_target(truth[10:14], up[:4], columns[10:14]) is None


@pytest.mark.parametrize("ranks", [True, False])
@pytest.mark.parametrize("clustered", [True, False])
def test_bootstrap_samples(ranks, clustered):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, 15).astype(float)
    others = [x + rng.integers(-2, 3, 15), -x, np.full(15, 0.1)]
    clusters = np.arange(15) // 3 * 7 if clustered else None
    got = metrics.resampled_correlation(x, others, 20, 5, ranks=ranks, clusters=clusters)
    redraw = np.random.default_rng(5)
    units = 5 if clustered else 15
    measure = metrics.spearman if ranks else metrics.pearson
    for b in range(20):
        held = np.repeat(np.bincount(redraw.integers(0, units, units), minlength=units), 15 // units)
        # The same sample for all, ranked anew.
        for k, y in enumerate(others[:2]):
            assert got[k, b] == pytest.approx(measure(np.repeat(x, held), np.repeat(y, held)), abs=1e-12)
    assert np.isnan(got[2]).all()


def test_bootstrap_in_passes_is_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30))
    whole = metrics.resampled_correlation(x * 1e-170, [y], 10, 3, ranks=False)
    monkeypatch.setattr(metrics, "_FLOATS_PER_PASS", 90)
    assert np.array_equal(metrics.resampled_correlation(x * 1e-170, [y], 10, 3, ranks=False), whole)
    assert np.isfinite(whole).all()


def test_centred_by_hand():
    columns = np.array([4, 9, 4, 9, 9, 7])
    x = a(1, 10, 3, 20, 60, 5)
    assert metrics.column_centred(x, columns).tolist() == [-1, -20, 1, -10, 30, 0]
    # Exactly 0 although the mean of three times 0.1 is not 0.1.
    assert metrics.column_centred(np.full(6, 0.1), columns).tolist() == [0] * 6
    assert metrics.column_centred(a(), columns[:0]).tolist() == []


def test_centred_spearman_knows_no_column_effect():
    columns = np.array([0, 0, 0, 1, 1, 1, 2])
    truth = a(1, 2, 3, 11, 12, 13, 99)
    assert metrics.spearman_centred(truth, columns * 10.0, columns) is None
    assert metrics.spearman(truth, columns * 10.0) > 0.9
    # Residuals -1, 0, 1 twice against 1, 0, -1 twice; the column with one pair is left out.
    assert metrics.spearman_centred(truth, a(3, 2, 1, 13, 12, 11, -50), columns) == -1.0
    assert metrics.spearman_centred(truth[5:], truth[5:], columns[5:]) is None


def test_top_membership_shares_the_edge():
    assert metrics.top_membership(a(5, 1, 1, 0), 2).tolist() == [1, 0.5, 0.5, 0]
    assert metrics.top_membership(a(2, 2, 2, 2), 1).tolist() == [0.25] * 4


def test_interval_width_and_repeatability():
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    y = 0.4 * x + rng.normal(size=300)
    rho = metrics.spearman(x, y)
    lower, upper = metrics.spearman_interval(x, y, 500, 0)
    assert lower < rho < upper
    # Large-sample form, as used above the limit.
    half = 1.645 * math.sqrt((1 + rho**2 / 2) / 297)
    assert lower == pytest.approx(math.tanh(math.atanh(rho) - half), abs=0.03)
    assert upper == pytest.approx(math.tanh(math.atanh(rho) + half), abs=0.03)
    assert metrics.spearman_interval(x, y, 500, 0) == (lower, upper)
    assert metrics.spearman_interval(x, y, 500, 1) != (lower, upper)


def test_interval_edges():
    x = np.arange(10.0)
    assert metrics.spearman_interval(x, np.zeros(10), 500, 0) == (None, None)
    assert metrics.spearman_interval(x, x, 0, 0) == (None, None)
    assert metrics.spearman_interval(x, x, 200, 0) == pytest.approx((1.0, 1.0))
    many = np.arange(6000.0)
    assert metrics.spearman_interval(many, many, 500, 0) == (1.0, 1.0)
    noisy = many + np.random.default_rng(0).normal(size=6000) * 6000
    rho = metrics.spearman(many, noisy)
    lower, upper = metrics.spearman_interval(many, noisy, 500, 0)
    assert lower < rho < upper and upper - lower < 0.06
