"""Values that are nearly row plus column effects: weights that all but cancel must not ruin predictions."""

from __future__ import annotations

import numpy as np
import pytest
from estimator_worlds import learnable, r_squared

from nncift_core.estimator.contract import EMBEDDING
from nncift_core.estimator.kernel import Kernel


@pytest.mark.parametrize("interaction", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("design", ["block", "scattered"])
def test_nearly_additive_values_without_noise_are_predicted(interaction: float, design: str):
    world = learnable(200, 80)
    e, f = world.features.rows[EMBEDDING], world.features.columns[EMBEDDING]
    world.Z[:] = e[:, :1] + f[:, 1] + interaction * e[:, :1] * f[:, 0]
    i, j, z = world.block(80, 30) if design == "block" else world.scattered(4000)
    model = Kernel().fit(world.features, i, j, z, seed=0)
    predicted = model.predict(world.features)
    assert r_squared(world.Z, predicted) > 0.97
    assert np.abs(predicted[i, j] - z).max() < 0.05 * z.std()
    k = np.arange(0, len(i), 7)
    np.testing.assert_allclose(
        model.predict_pairs(world.features, i[k], j[k]), predicted[i[k], j[k]], atol=1e-3 * z.std()
    )
