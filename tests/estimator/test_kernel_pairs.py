"""The kernel estimator on scattered labels: likelihood, the ways to solve, what scattered labels buy."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nncift_core.estimator import kernel_iterative, kernel_pairs
from nncift_core.estimator.contract import EMBEDDING, Features
from nncift_core.estimator.kernel import Kernel
from nncift_core.estimator.kernel_block import BlockLikelihood
from nncift_core.estimator.kernel_pairs import PairLikelihood, Pairs
from nncift_core.estimator.kernel_search import Hyper
from nncift_core.estimator.pair_features import Table

R, C = 50, 14


def made() -> tuple[Features, np.ndarray]:
    """Features, and a matrix of which the columns' levels are half the variance and no feature tells them."""
    rng = np.random.default_rng(2)
    sides = [{EMBEDDING: rng.normal(size=(n, 3)).astype(np.float32)} for n in (R, C)]
    x, y = (side[EMBEDDING] for side in sides)
    proxy = rng.normal(size=(R, C)).astype(np.float32)
    values = np.sin(x[:, :1]) * np.cos(y[:, 0]) + rng.normal(size=C) + 0.3 * proxy
    ids = rng.permutation(R + C).astype(np.int64)
    features = Features(ids[:R], ids[R:], sides[0], sides[1], {"proxy": Table(proxy)})
    return features, values + 0.1 * rng.normal(size=values.shape)


def scattered(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.divmod(np.sort(np.random.default_rng(4).choice(R * C, n, replace=False)), C)


@pytest.fixture
def problem() -> tuple[Features, np.ndarray, np.ndarray, np.ndarray]:
    features, values = made()
    i, j = scattered(250)
    return features, values, i, j


def test_likelihood_of_a_full_product_is_that_of_the_block():
    rng = np.random.default_rng(1)
    labels = rng.normal(size=(2, 5, 4))
    x, y = rng.normal(size=(2, 5, 2)), rng.normal(size=(2, 4, 2))
    D_r, D_c = (((v[:, :, None] - v[:, None]) ** 2).sum(axis=3) for v in (x, y))
    pairs = Pairs(
        np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5), labels[0].ravel(), labels[1:].reshape(1, 20)
    )
    hyper = Hyper.of(rng.normal(size=10) * 0.5 - 0.7, 2, 2)
    value, slopes = PairLikelihood(pairs, D_r, D_c)(hyper)
    expected, expected_slopes = BlockLikelihood(labels, D_r, D_c)(hyper)
    assert value == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(slopes, expected_slopes, atol=1e-9)


def test_slopes_of_scattered_labels_are_derivatives():
    rng = np.random.default_rng(3)
    r, c = np.array([0, 0, 1, 2, 3, 3, 4]), np.array([0, 2, 1, 1, 0, 2, 2])
    x, y = rng.normal(size=(2, 5, 2)), rng.normal(size=(2, 3, 2))
    D_r, D_c = (((v[:, :, None] - v[:, None]) ** 2).sum(axis=3) for v in (x, y))
    objective = PairLikelihood(Pairs(r, c, rng.normal(size=7), rng.normal(size=(2, 7))), D_r, D_c)
    theta, h = rng.normal(size=11) * 0.5 - 0.7, 1e-5
    _, slopes = objective(Hyper.of(theta, 2, 2))
    difference = [
        (objective(Hyper.of(theta + e, 2, 2))[0] - objective(Hyper.of(theta - e, 2, 2))[0]) / (2 * h)
        for e in h * np.eye(11)
    ]
    np.testing.assert_allclose(slopes, difference, atol=1e-6)


def test_scattered_labels_complete_a_matrix_with_levels_that_no_feature_tells(problem):
    features, values, i, j = problem
    model = Kernel().fit(features, i, j, values[i, j], seed=0)
    unseen = np.ones((R, C), bool)
    unseen[i, j] = False
    predicted = model.predict(features)
    left = np.square(values - predicted)[unseen].mean() / values[unseen].var()
    assert left < 0.25
    strange = Features(
        features.row_ids, features.column_ids + 1000, features.rows, features.columns, features.pairs
    )
    unknown = np.square(values - model.predict(strange))[unseen].mean() / values[unseen].var()
    assert unknown > 1.2 * left
    np.testing.assert_allclose(model.predict_pairs(features, i, j), predicted[i, j], atol=1e-5)
    facts = model.describe()
    assert facts["form"] == "pairs, Cholesky" and facts["labels"] == 250 and facts["column_own"] > 0


def test_every_way_to_solve_gives_the_same(problem, monkeypatch):
    features, values, i, j = problem
    direct = Kernel().fit(features, i, j, values[i, j], seed=0)
    expected, spread = direct.predict(features), values.std()
    monkeypatch.setattr(kernel_iterative, "TOLERANCE", 1e-6)
    monkeypatch.setattr(kernel_pairs, "DIRECT", 100)
    masked = Kernel().fit(features, i, j, values[i, j], seed=0)
    assert masked.describe()["form"] == "pairs, conjugate gradients" and masked.steps > 0
    np.testing.assert_allclose(masked.predict(features), expected, atol=1e-4 * spread)
    assert masked.sigma == pytest.approx(direct.sigma, rel=1e-3)
    assert masked.describe()["pair_features"] == pytest.approx(direct.describe()["pair_features"], abs=1e-3)
    # Fewer labels know less: the variance given 100 of them bounds that given all.
    assert (masked.std(features, i, j) >= direct.std(features, i, j) * (1 - 1e-5)).all()
    monkeypatch.setattr(kernel_iterative, "EXACT_ITEMS", 10)
    through = Kernel().fit(features, i, j, values[i, j], seed=0)
    assert through.describe()["form"] == "pairs, conjugate gradients, landmarks"
    np.testing.assert_allclose(through.predict(features), expected, atol=1e-3 * spread)
    np.testing.assert_allclose(
        through.predict_pairs(features, i, j), through.predict(features)[i, j], atol=1e-4 * spread
    )
    assert through.std(features, i, j) is None
    monkeypatch.setattr(kernel_iterative, "LANDMARKS", 12)
    few = Kernel().fit(features, i, j, values[i, j], seed=0)
    assert few.thin.W.shape == (12, 12)
    assert np.square(few.predict(features) - expected).mean() < 0.2 * values.var()


def test_preconditioned_steps_are_few_and_hard_labels_are_refused(problem, monkeypatch):
    features, values, i, j = problem
    monkeypatch.setattr(kernel_pairs, "DIRECT", 100)
    helped = Kernel().fit(features, i, j, values[i, j], seed=0).steps
    monkeypatch.setattr(kernel_iterative, "scales_of", lambda design, noise: [np.float32(1)] * 2)
    assert helped < 0.5 * Kernel().fit(features, i, j, values[i, j], seed=0).steps
    monkeypatch.setattr(kernel_iterative, "STEPS", 3)
    with pytest.raises(ValueError, match="did not converge in 3 steps on 250 labels"):
        Kernel().fit(features, i, j, values[i, j], seed=0)


def test_the_usual_tolerance_is_enough(problem, monkeypatch):
    features, values, i, j = problem
    expected = Kernel().fit(features, i, j, values[i, j], seed=0).predict(features)
    monkeypatch.setattr(kernel_pairs, "DIRECT", 100)
    quick = Kernel().fit(features, i, j, values[i, j], seed=0).predict(features)
    assert np.sqrt(np.square(quick - expected).mean()) < 0.01 * values.std()


def test_a_full_product_less_one_pair_is_near_to_the_block(problem):
    features, values, _, _ = problem
    i, j = np.repeat(np.arange(20), 8), np.tile(np.arange(8), 20)
    whole = Kernel().fit(features, i, j, values[i, j], seed=0)
    less = Kernel().fit(features, i[1:], j[1:], values[i, j][1:], seed=0)
    assert (whole.form, less.form) == ("block", "pairs, Cholesky")
    close = np.square(whole.predict(features) - less.predict(features)).mean()
    assert close < 0.01 * values.var()


def test_std_is_that_of_the_errors(problem):
    features, values, i, j = problem
    model = Kernel().fit(features, i, j, values[i, j], seed=0)
    unseen = np.ones((R, C), bool)
    unseen[i, j] = False
    k, m = np.nonzero(unseen)
    inside = np.abs(values[k, m] - model.predict_pairs(features, k, m)) < 1.645 * model.std(features, k, m)
    assert 0.8 < inside.mean() <= 0.99
    assert model.std(features, i, j).mean() < model.std(features, k, m).mean()


@pytest.mark.parametrize("direct", [3000, 100])
def test_a_saved_state_predicts_the_same_bits(problem, monkeypatch, direct: int):
    features, values, i, j = problem
    monkeypatch.setattr(kernel_pairs, "DIRECT", direct)
    model = Kernel().fit(features, i, j, values[i, j], seed=0)
    arrays, settings = model.state()
    arrays = {k: np.ascontiguousarray(x) for k, x in arrays.items()}
    copy = Kernel.from_state(arrays, json.loads(json.dumps(settings, allow_nan=False)))
    assert np.array_equal(copy.predict(features), model.predict(features))
    assert np.array_equal(copy.std(features, i, j), model.std(features, i, j))
    assert (
        np.array_equal(copy.predict_pairs(features, i, j), model.predict_pairs(features, i, j))
        and copy.describe() == model.describe()
    )


def test_a_second_fit_forgets_the_first(problem):
    features, values, i, j = problem
    model = Kernel().fit(features, i, j, values[i, j], seed=0)
    before = model.std(features, i, j)
    model.fit(features, i[:60], j[:60], values[i, j][:60], seed=0)
    fresh = Kernel().fit(features, i[:60], j[:60], values[i, j][:60], seed=0)
    assert np.array_equal(model.std(features, i, j), fresh.std(features, i, j))
    assert not np.array_equal(model.std(features, i, j), before)


def test_order_of_scattered_labels_does_not_matter_and_copies_are_averaged(problem):
    features, values, i, j = problem
    order = np.random.default_rng(0).permutation(len(i))
    model = Kernel().fit(features, i, j, values[i, j], seed=0)
    again = Kernel().fit(features, i[order], j[order], values[i, j][order], seed=0)
    assert np.array_equal(model.predict(features), again.predict(features))
    z = values[i, j]
    copies = Kernel().fit(
        features, np.r_[i, i[:1]], np.r_[j, j[:1]], np.r_[z[0] - 1, z[1:], z[0] + 1], seed=0
    )
    np.testing.assert_allclose(copies.predict(features), model.predict(features), atol=1e-4)
