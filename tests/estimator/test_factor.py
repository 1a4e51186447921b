"""Low-rank factors regressed on features."""

from __future__ import annotations

import numpy as np
import pytest
from estimator_worlds import learnable, pointwise, r_squared

from nncift_core.estimator.contract import EMBEDDING
from nncift_core.estimator.factor import Factor, _als, _block
from nncift_core.estimator.sides import Labels

RNG = np.random.default_rng(0)


def labels_of(Z, at):
    i, j = at // Z.shape[1], at % Z.shape[1]
    return Labels(np.zeros((len(Z), 1)), np.zeros((Z.shape[1], 1)), i, j, Z[i, j])


@pytest.mark.parametrize("design", ["block", "scattered"])
def test_interactions_are_found_where_an_additive_model_finds_none(design):
    world = learnable(noise=0.1)
    e, f = world.features.rows[EMBEDDING], world.features.columns[EMBEDDING]
    Z = (e[:, :2] @ f[:, :2].T).astype(np.float64)
    i, j, _ = world.block(50, 25) if design == "block" else world.scattered(700)
    model = Factor().fit(world.features, i, j, Z[i, j], seed=0)
    unseen = np.ones(Z.shape, bool)
    unseen[i, j] = False
    assert r_squared(Z[unseen], model.predict(world.features)[unseen]) > 0.6
    assert model.describe()["rank"] >= 2


def test_pointwise_values_are_a_regression_on_the_rows():
    world = pointwise()
    model = Factor().fit(world.features, *world.block(60, 1), seed=0)
    assert r_squared(world.Z[60:], model.predict(world.features)[60:]) > 0.8


def test_labels_are_a_block_when_each_row_has_each_column_once():
    Z = RNG.normal(size=(4, 3))
    at = RNG.permutation(12)
    block = labels_of(Z, at)
    assert np.array_equal(_block(block, block.z), Z)
    assert _block(labels_of(Z, at[:11]), Z[:0]) is None
    repeated = labels_of(Z, np.r_[at[:11], at[0]])
    assert _block(repeated, repeated.z) is None


def test_alternating_least_squares_completes_a_low_rank_matrix():
    Z = 3 * RNG.normal(size=(40, 2)) @ RNG.normal(size=(2, 30))
    at = RNG.permutation(1200)[:700]
    labels = labels_of(Z, at)
    A, B = _als(labels, labels.z, 40, 30, 2, seed=0)
    unseen = np.setdiff1d(np.arange(1200), at)
    assert r_squared(Z.ravel()[unseen], (A @ B.T).ravel()[unseen]) > 0.95
