"""Cheap estimators against hand-computed numbers."""

from __future__ import annotations

import numpy as np
import pytest
from estimator_worlds import learnable, pointwise

from nncift_core.estimator import Calibrated, ConstantMean, Features, Random, ShrunkMeans, default_baselines
from nncift_core.estimator.baselines import shrunk_effects
from nncift_core.estimator.contract import BM25, COSINE, EMBEDDING, LENGTH, PROXY
from nncift_core.estimator.pair_features import Cosine, OfRow, Table

ROW_IDS, COLUMN_IDS = np.array([3, 9, 5]), np.array([1, 2, 4])
PLAIN = Features(ROW_IDS, COLUMN_IDS)
ROW, COLUMN = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
Z = np.array([1.0, 2.0, 3.0, 6.0])


def with_pairs(**pairs):
    return Features(ROW_IDS, COLUMN_IDS, pairs={k.replace("_", " "): p for k, p in pairs.items()})


def test_constant():
    model = ConstantMean().fit(PLAIN, ROW, COLUMN, Z)
    assert model.predict(PLAIN).tolist() == [[3.0] * 3] * 3
    assert model.predict_pairs(PLAIN, np.array([2, 0]), np.array([1, 1])).tolist() == [3.0, 3.0]


def test_shrunk_means_by_hand():
    # Balanced 2 x 2 block, mean 3: row means 1.5, 4.5 and column means 2, 4, each times 2 / (2 + 2).
    model = ShrunkMeans(shrinkage=2.0).fit(PLAIN, ROW, COLUMN, Z)
    row, column = np.array([-0.75, 0.75, 0.0]), np.array([-0.5, 0.5, 0.0])
    np.testing.assert_allclose(model.predict(PLAIN), 3 + row[:, None] + column, atol=1e-6)


def test_shrunk_means_know_rows_and_columns_by_content():
    model = ShrunkMeans(shrinkage=2.0).fit(PLAIN, ROW, COLUMN, Z)
    other = Features(np.array([100, 9]), np.array([2, 1, 77]))
    np.testing.assert_allclose(model.predict(other), [[3.5, 2.5, 3.0], [4.25, 3.25, 3.75]], atol=1e-6)


def test_rows_of_one_content_share_their_effect():
    twice = Features(np.array([3, 3]), np.array([1, 2]))
    model = ShrunkMeans(shrinkage=2.0).fit(twice, np.array([0, 1]), np.array([0, 0]), np.array([1.0, 5.0]))
    assert model.rows.tolist() == [3] and model.row_effects.tolist() == [0.0]


def test_shrunk_effects_minimise_the_stated_objective():
    rng = np.random.default_rng(0)
    i, j, z = rng.integers(0, 6, 40), rng.integers(0, 4, 40), rng.normal(size=40)
    z -= z.mean()
    X = np.concatenate([np.eye(6)[i], np.eye(4)[j]], axis=1)
    exact = np.linalg.solve(X.T @ X + 1.5 * np.eye(10), X.T @ z)
    np.testing.assert_allclose(np.concatenate(shrunk_effects(i, j, z, 1.5)), exact, atol=1e-7)
    with pytest.raises(ValueError, match="shrinkage must be positive, got 0"):
        ShrunkMeans(0)


def test_calibrated_is_the_least_squares_line():
    x = np.array([[1, 2, 4], [0, -3, 5], [7, 7, 8]], np.float32)
    features = with_pairs(bm25=Table(x))
    model = Calibrated(BM25).fit(features, ROW, COLUMN, Z)
    slope, intercept = np.polyfit(x[ROW, COLUMN], Z, 1)
    assert model.name == "bm25"
    assert (model.slope, model.intercept) == (pytest.approx(slope), pytest.approx(intercept))
    np.testing.assert_allclose(model.predict(features), intercept + slope * x, rtol=1e-5)


def test_calibrated_cosine_may_rank_in_reverse():
    rows = np.array([[2, 0], [0, 1], [0, 0]], np.float32)
    features = with_pairs(embedding_cosine=Cosine.of(rows, np.eye(3, 2, dtype=np.float32)))
    model = Calibrated(COSINE).fit(features, ROW, COLUMN, 0.5 - 2 * np.array([1.0, 0.0, 0.0, 1.0]))
    assert model.slope == pytest.approx(-2) and model.intercept == pytest.approx(0.5)
    # A zero vector has no direction: cosine 0.
    np.testing.assert_allclose(model.predict(features)[2], [0.5, 0.5, 0.5], atol=1e-6)


def test_a_feature_that_does_not_vary_is_a_constant():
    features = with_pairs(length=OfRow(np.array([0.1, 0.1, 0.9], np.float32), 3))
    model = Calibrated(LENGTH).fit(features, ROW, COLUMN, Z)
    assert model.slope == 0 and model.predict(features).tolist() == [[3.0] * 3] * 3


def test_an_absent_or_broken_feature_is_named():
    with pytest.raises(ValueError, match=r"no pair feature 'bm25', only \['length'\]"):
        Calibrated(BM25).fit(with_pairs(length=OfRow(np.ones(3, np.float32), 3)), ROW, COLUMN, Z)
    broken = with_pairs(bm25=Table(np.where(np.eye(3) > 0, np.nan, 1).astype(np.float32)))
    with pytest.raises(ValueError, match="2 of 4 numbers of bm25 are not finite"):
        Calibrated(BM25).fit(broken, ROW, COLUMN, Z)


def test_random_has_the_mean_and_spread_of_the_labels_and_no_pattern():
    features = Features(np.arange(300), np.arange(1000, 1200))
    z = np.random.default_rng(0).normal(5, 0.01, 50)
    i, j = np.arange(50), np.arange(50)
    tile = Random().fit(features, i, j, z, seed=1).predict(features)
    assert tile.mean() == pytest.approx(z.mean(), abs=2e-4) and tile.std() == pytest.approx(z.std(), rel=0.02)
    assert np.abs(tile.mean(axis=1) - z.mean()).max() < 0.005
    assert len(np.unique(tile)) > 10_000
    other = Random().fit(features, i, j, z, seed=2).predict(features)
    assert abs(np.corrcoef(tile.ravel(), other.ravel())[0, 1]) < 0.02


def test_random_values_hang_on_contents_not_on_places():
    features = Features(np.arange(20), np.arange(1000, 1010))
    model = Random().fit(features, np.arange(9), np.arange(9), np.arange(9.0), seed=1)
    whole = model.predict(features)
    rows, columns = np.array([17, 2]), np.array([9, 0, 4])
    assert np.array_equal(model.predict(features.take(rows, columns)), whole[np.ix_(rows, columns)])


def test_which_baselines_stand_in_a_table():
    def names(features, **asked):
        return [m.name for m in default_baselines(features, **asked)]

    pairs = learnable(9, 5).features
    six = ["constant", "row + column means", "embedding cosine", "bm25", "length", "gradient proxy"]
    assert names(pairs) == six
    assert names(pairs, random=True) == [*six, "random"]
    assert names(pairs.only((EMBEDDING, PROXY))) == [*six[:2], "gradient proxy"]
    assert names(pointwise(9).features) == ["constant", "length"]
