"""The network behind the contract."""

from __future__ import annotations

import numpy as np
import pytest
from estimator_worlds import learnable, pointwise, r_squared

from nncift_core.estimator import fit, make, training
from nncift_core.estimator.contract import EMBEDDING, LENGTHS
from nncift_core.estimator.mlp import Mlp, MlpPaper

WORLD = learnable(noise=0.1)


def test_mlp_paper_is_the_published_training_on_embeddings_alone():
    i, j, z = WORLD.block(30, 12)
    model = MlpPaper(hidden=9).fit(WORLD.features, i, j, z, seed=4)
    rows, columns = WORLD.features.rows[EMBEDDING], WORLD.features.columns[EMBEDDING]
    network, _ = fit(rows, columns, i, j, z, architecture="mlp-paper", hidden=9, seed=4)
    assert np.array_equal(model.predict(WORLD.features), network.predict(rows, columns))
    assert np.array_equal(model.predict(WORLD.features.only((EMBEDDING,))), network.predict(rows, columns))
    facts = model.describe()
    assert (facts["epochs"], facts["hidden"], facts["parameters"]) == (20, 9, 12 * 9 + 9 + 9 + 1)
    assert (facts["minimum"], facts["maximum"]) == (z.min(), z.max())
    with pytest.raises(ValueError, match="mlp-paper needs the feature group 'embedding'"):
        MlpPaper().fit(WORLD.features.only((LENGTHS,)), i, j, z, seed=0)
    with pytest.raises(ValueError, match="not fitted"):
        MlpPaper().predict(WORLD.features)


def test_mlp_predicts_unseen_pairs():
    model = Mlp(hidden=40).fit(WORLD.features, *WORLD.block(60, 30), seed=0)
    assert r_squared(WORLD.Z[60:, 30:], model.predict(WORLD.features)[60:, 30:]) > 0.5
    one = pointwise()
    model = Mlp(hidden=40).fit(one.features, *one.block(60, 1), seed=0)
    assert r_squared(one.Z[60:], model.predict(one.features)[60:]) > 0.7


def test_mlp_reads_every_group_and_every_pair_feature():
    world = learnable(noise=0.0)
    length = world.features.rows[LENGTHS][:, :1].astype(np.float64)
    # The second half hangs on the lengths alone, which would drown beside them if unscaled.
    Z = np.tanh(3 * (length - length.mean())) + np.zeros(world.Z.shape)
    i, j, _ = world.block(70, 10)
    model = Mlp(hidden=40).fit(world.features, i, j, Z[i, j], seed=0)
    blind = Mlp(hidden=40).fit(world.features.only((EMBEDDING,)), i, j, Z[i, j], seed=0)
    seen, unseen = (r_squared(Z[70:], m.predict(world.features)[70:]) for m in (model, blind))
    assert seen > 0.5 > 0.2 > unseen
    pairs = world.features.pairs["gradient proxy"].tile().astype(np.float64)
    alone = Mlp(hidden=4).fit(world.features, i, j, pairs[i, j], seed=0)
    assert r_squared(pairs[70:], alone.predict(world.features)[70:]) > 0.95
    assert alone.describe()["pair_slopes"]["gradient proxy"] == pytest.approx(1, abs=0.02)


def test_width_is_that_asked_for():
    for name in ("mlp", "mlp-paper"):
        model = make(name, hidden=7).fit(WORLD.features, *WORLD.block(12, 6), seed=0)
        assert model.describe()["hidden"] == 7


def test_many_labels_are_seen_fewer_times_and_it_is_said(monkeypatch):
    labels = WORLD.block(30, 10)
    model = Mlp(hidden=4).fit(WORLD.features, *labels, seed=0)
    assert model.describe()["most_epochs"] == 300
    monkeypatch.setattr(training, "_MAX_SEEN", 240 * 25)
    model = Mlp(hidden=4).fit(WORLD.features, *labels, seed=0)
    facts = model.describe()
    assert facts["n_labels"] - facts["n_validation"] == 240
    assert facts["most_epochs"] == 25 >= facts["epochs"]
