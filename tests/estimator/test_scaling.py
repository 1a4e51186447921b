"""Standardised coordinates of feature groups, and the linear mean of pair features."""

from __future__ import annotations

import numpy as np
import pytest
from estimator_worlds import learnable

from nncift_core.estimator.contract import Features
from nncift_core.estimator.pair_features import Table
from nncift_core.estimator.scaling import LinearMean, Side

RNG = np.random.default_rng(0)
GROUPS = {
    "embedding": RNG.normal(size=(50, 12)).astype(np.float32),
    "lengths": (1000 + 90 * RNG.normal(size=(50, 2))).astype(np.float32),
}
AT = np.arange(0, 50, 2)


def test_every_group_weighs_the_same_over_the_labelled_rows():
    both = Side.fit(GROUPS, AT).coordinates(GROUPS, AT)
    np.testing.assert_allclose(both.mean(axis=0), 0, atol=1e-5)
    assert np.square(both).sum(axis=1).mean() == pytest.approx(2, rel=1e-4)
    for name in GROUPS:
        alone = Side.fit({name: GROUPS[name]}, AT).coordinates(GROUPS, AT)
        assert np.square(alone).sum(axis=1).mean() == pytest.approx(1, rel=1e-4)


def test_distances_are_those_of_standardised_features():
    x = Side.fit(GROUPS, AT).coordinates(GROUPS, np.arange(50))
    parts = []
    for g in GROUPS.values():
        wanted = (g - g[AT].mean(axis=0)) / g[AT].std(axis=0)
        parts.append(wanted / np.sqrt(g.shape[1]))
    wanted = np.concatenate(parts, axis=1)
    assert x.shape == (50, 14)
    np.testing.assert_allclose(x @ x.T, wanted @ wanted.T, atol=1e-4)


def test_fewer_rows_than_numbers_keep_their_inner_products():
    few = AT[:5]
    side = Side.fit(GROUPS, few)
    x = side.coordinates(GROUPS, few)
    assert x.shape == (5, 4)
    assert np.square(x).sum(axis=1).mean() == pytest.approx(2, rel=1e-4)
    assert Side.fit(GROUPS, few, max_axes=3).coordinates(GROUPS, few).shape == (5, 3)


def test_what_does_not_vary_among_labels_is_not_read():
    groups = {"loss": np.stack([np.full(6, 0.1), [1, 2, 3, 4, 50, 60]], axis=1).astype(np.float32)}
    groups["loss"][5, 0] = 1e6
    x = Side.fit(groups, np.arange(4)).coordinates(groups, np.arange(6))
    assert x.shape == (6, 1) and np.abs(x[:4]).max() < 2 and np.abs(x).max() < 60
    assert Side.fit(groups, np.array([0])).coordinates(groups, np.arange(6)).shape == (6, 0)


def test_no_groups_no_coordinates_and_a_missing_group_is_named():
    assert Side.fit({}, AT).coordinates({}, AT).shape == (25, 0)
    side = Side.fit(GROUPS, AT)
    with pytest.raises(ValueError, match=r"\['lengths'\] are missing"):
        side.coordinates({"embedding": GROUPS["embedding"]}, AT)
    with pytest.raises(ValueError, match="lengths: 1 labelled"):
        Side.fit({"lengths": np.array([[1.0], [np.inf]], np.float32)}, np.arange(2))


def test_linear_mean_finds_slopes_and_shrinks_those_of_few_labels():
    world = learnable(60, 30)
    i, j, _ = world.scattered(900)
    names = sorted(world.features.pairs)
    X = world.features.pair_values(names, i, j).astype(np.float64)
    slopes = np.array([0.5, -2.0, 0.0, 1.0, 3.0])
    z = 7 + X @ slopes
    mean = LinearMean.fit(world.features, i, j, z)
    np.testing.assert_allclose(dict(zip(mean.names, mean.slopes, strict=True))["bm25"], 0.5, rtol=0.03)
    np.testing.assert_allclose(mean.at(world.features, i, j), z, atol=0.05 * z.std())
    np.testing.assert_allclose(mean.tile(world.features)[i, j], mean.at(world.features, i, j), rtol=1e-5)

    x = np.array([[-1.0, 1.0]], np.float32)
    features = Features(np.arange(1), np.arange(2), pairs={"bm25": Table(x)})
    few = LinearMean.fit(features, np.zeros(2, np.int64), np.arange(2), np.array([-1.0, 1.0]))
    # Two labels against a penalty of five: 2 / (2 + 5) of the slope.
    assert few.slopes[0] == pytest.approx(2 / 7)
