"""Means of the nearest labelled rows and columns."""

from __future__ import annotations

import numpy as np
import pytest
from estimator_worlds import learnable, pointwise, r_squared

from nncift_core.estimator import Features
from nncift_core.estimator.contract import EMBEDDING
from nncift_core.estimator.neighbours import Neighbours, _near, _slopes

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("design", ["block", "scattered"])
def test_clusters_of_rows_and_columns_share_their_values(design):
    """Nine clusters of rows, four of columns; the value belongs to the pair of clusters."""
    row, column = RNG.integers(0, 9, 90), RNG.integers(0, 4, 40)
    centres = 5 * RNG.normal(size=(13, 6))
    rows = (centres[row] + 0.1 * RNG.normal(size=(90, 6))).astype(np.float32)
    columns = (centres[9 + column] + 0.1 * RNG.normal(size=(40, 6))).astype(np.float32)
    Z = RNG.normal(size=(9, 4))[row][:, column] + 0.1 * RNG.normal(size=(90, 40))
    features = Features(np.arange(90), np.arange(40), {EMBEDDING: rows}, {EMBEDDING: columns})
    if design == "block":
        i, j = (x.ravel() for x in np.meshgrid(np.arange(60), np.arange(25), indexing="ij"))
    else:
        i, j = np.unravel_index(RNG.permutation(3600)[:900], (90, 40))
    model = Neighbours().fit(features, i, j, Z[i, j], seed=0)
    unseen = np.ones(Z.shape, bool)
    unseen[i, j] = False
    assert r_squared(Z[unseen], model.predict(features)[unseen]) > 0.8


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_shrunk_away(seed):
    world = learnable(seed=seed)
    noise = np.random.default_rng(seed).normal(size=world.Z.shape)
    i, j, _ = world.block(60, 30)
    features = world.features.only((EMBEDDING,))
    model = Neighbours().fit(features, i, j, noise[i, j], seed=0)
    assert r_squared(noise[60:, 30:], model.predict(features)[60:, 30:]) > -0.05


def test_pointwise_values_come_from_near_rows():
    world = pointwise(500)
    model = Neighbours().fit(world.features, *world.block(300, 1), seed=0)
    assert r_squared(world.Z[300:], model.predict(world.features)[300:]) > 0.3


def test_neighbours_by_hand():
    labelled = np.array([[0.0], [1.0], [3.0], [10.0]], np.float32)
    near = _near(labelled, np.array([[0.5], [3.0]], np.float32), 3)
    assert near.at.tolist() == [[0, 1, 2], [2, 1, 0]]
    # Squared distances .25, .25, 6.25 and 0, 4, 9: 1 / (d^2 + that of the third).
    w = 1 / np.array([[6.5, 6.5, 12.5], [9, 13, 18]])
    w /= w.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(near.weights, w, rtol=1e-5)
    values = np.array([1, 2, 4, 8], np.float32)
    np.testing.assert_allclose(near.mean(values), near.matrix(4) @ values, rtol=1e-6)
    apart = _near(labelled, labelled, 1, itself=np.arange(4))
    assert apart.at.ravel().tolist() == [1, 0, 1, 2]


def test_slopes_stay_within_0_and_1():
    X = RNG.normal(size=(200, 3))
    np.testing.assert_allclose(_slopes(X, X @ [0.2, 0.9, 0.0]), [0.2, 0.9, 0.0], atol=1e-6)
    assert _slopes(X, X @ [5.0, -3.0, 0.0])[:2].tolist() == [1.0, 0.0]
    assert _slopes(np.zeros((5, 3)), np.ones(5)).tolist() == [0, 0, 0]
