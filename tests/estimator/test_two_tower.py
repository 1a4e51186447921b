"""Two linear towers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from estimator_worlds import learnable, pointwise, r_squared

from nncift_core.estimator.contract import EMBEDDING
from nncift_core.estimator.two_tower import TwoTower

WORLD = learnable(noise=0.1)


@pytest.mark.parametrize("design", ["block", "scattered"])
def test_unseen_pairs_are_predicted(design):
    i, j, z = WORLD.block(50, 25) if design == "block" else WORLD.scattered(700)
    model = TwoTower().fit(WORLD.features, i, j, z, seed=0)
    unseen = np.ones(WORLD.Z.shape, bool)
    unseen[i, j] = False
    assert r_squared(WORLD.Z[unseen], model.predict(WORLD.features)[unseen]) > 0.8
    facts = model.describe()
    assert 0 < facts["steps"] <= 300 and 0 < facts["held_out_mse"] < 0.5


def test_interactions_are_learned():
    e, f = WORLD.features.rows[EMBEDDING], WORLD.features.columns[EMBEDDING]
    Z = (e[:, :2] @ f[:, :2].T).astype(np.float64)
    i, j, _ = WORLD.block(60, 30)
    model = TwoTower().fit(WORLD.features, i, j, Z[i, j], seed=0)
    assert r_squared(Z[60:, 30:], model.predict(WORLD.features)[60:, 30:]) > 0.7


@pytest.mark.parametrize("seed", range(3))
def test_noise_stops_training_early(seed):
    noise = np.random.default_rng(seed).normal(size=WORLD.Z.shape)
    i, j, _ = WORLD.block(40, 20)
    model = TwoTower().fit(WORLD.features, i, j, noise[i, j], seed=0)
    assert model.describe()["steps"] < 60
    assert r_squared(noise[40:, 20:], model.predict(WORLD.features)[40:, 20:]) > -0.1


def test_pointwise_values_are_a_tower_of_rows():
    world = pointwise()
    model = TwoTower().fit(world.features, *world.block(60, 1), seed=0)
    assert r_squared(world.Z[60:], model.predict(world.features)[60:]) > 0.8


def test_global_state_of_torch_is_neither_read_nor_changed():
    labels = WORLD.block(10, 6)
    torch.manual_seed(1)
    first = TwoTower().fit(WORLD.features, *labels, seed=7).predict(WORLD.features)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        second = TwoTower().fit(WORLD.features, *labels, seed=7).predict(WORLD.features)
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(first, second)
