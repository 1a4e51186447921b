"""Ridge regression, and the helpers that choose penalties."""

from __future__ import annotations

import numpy as np
import pytest
from estimator_worlds import learnable, pointwise, r_squared

from nncift_core.estimator.contract import EMBEDDING
from nncift_core.estimator.linear import PENALTIES, folds, ridge_leave_one_out
from nncift_core.estimator.ridge import Ridge, _Sums
from nncift_core.estimator.sides import Labels

RNG = np.random.default_rng(0)


def some_labels(m=12, n=7, k=50):
    F, G = RNG.normal(size=(m, 4)), RNG.normal(size=(n, 3))
    return Labels(F, G, RNG.integers(0, m, k), RNG.integers(0, n, k), RNG.normal(size=k))


def test_additive_values_are_found_on_unseen_rows_and_columns():
    world = learnable(noise=0.1)
    i, j, z = world.block(60, 30)
    model = Ridge().fit(world.features, i, j, z, seed=0)
    assert r_squared(world.Z[60:, 30:], model.predict(world.features)[60:, 30:]) > 0.35
    one = pointwise()
    model = Ridge().fit(one.features, *one.block(60, 1), seed=0)
    assert r_squared(one.Z[60:], model.predict(one.features)[60:]) > 0.8


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_left_alone(seed):
    """Nothing depends on the features: the penalties must not be fooled into following labelled rows."""
    world = learnable(seed=seed)
    noise = np.random.default_rng(seed).normal(size=world.Z.shape)
    noise += 2 * np.random.default_rng(seed + 9).normal(size=(world.Z.shape[0], 1))
    i, j, _ = world.block(60, 30)
    features = world.features.only((EMBEDDING,))
    model = Ridge().fit(features, i, j, noise[i, j], seed=0)
    assert r_squared(noise[60:, 30:], model.predict(features)[60:, 30:]) > -0.15


def test_sums_are_those_of_the_written_out_pairs():
    labels = some_labels()
    at = np.arange(0, 50, 3)
    X = np.concatenate([np.ones((50, 1)), labels.F[labels.i], labels.G[labels.j]], axis=1)[at]
    sums = _Sums.of(labels, at)
    np.testing.assert_allclose(sums.gram, X.T @ X, atol=1e-10)
    np.testing.assert_allclose(sums.right, X.T @ labels.z[at], atol=1e-10)
    w = sums.solve(2, 4)
    assert sums.error(w) == pytest.approx(np.square(labels.z[at] - X @ w).sum())
    # The gradient of the penalised sum of squares is 0 at the solution; the intercept has no penalty.
    squares = np.square(X).sum(axis=0)
    penalty = np.r_[0, [PENALTIES[2] * squares[1:5].sum()] * 4, [PENALTIES[4] * squares[5:].sum()] * 3]
    np.testing.assert_allclose(X.T @ (X @ w - labels.z[at]) + penalty * w, 0, atol=1e-8)


def test_sums_without_a_fold_are_the_sums_of_the_rest():
    labels, at = some_labels(), np.arange(50)
    rest = _Sums.of(labels, at).without(_Sums.of(labels, at[:20]))
    np.testing.assert_allclose(rest.gram, _Sums.of(labels, at[20:]).gram, atol=1e-10)
    assert rest.squares == pytest.approx(_Sums.of(labels, at[20:]).squares)


def test_leave_one_out_equals_leaving_out_one_by_one():
    X, y = RNG.normal(size=(15, 20)), RNG.normal(size=(15, 1))
    y += X[:, :1]
    W, w0 = ridge_leave_one_out(X, y)

    # The penalty acts on X centred over all rows; the intercept has none.
    A = np.c_[np.ones(15), X - X.mean(axis=0)]

    def solve(rows, penalty):
        P = penalty * np.diag(np.r_[0, np.ones(20)])
        return np.linalg.solve(A[rows].T @ A[rows] + P, A[rows].T @ y[rows, 0])

    penalties = PENALTIES * np.square(A[:, 1:]).sum()
    others = [np.delete(np.arange(15), k) for k in range(15)]
    errors = [sum((y[k, 0] - A[k] @ solve(others[k], p)) ** 2 for k in range(15)) for p in penalties]
    wanted = solve(np.arange(15), penalties[int(np.argmin(errors))])
    np.testing.assert_allclose(W[:, 0], wanted[1:], atol=1e-8)
    assert w0[0] == pytest.approx(wanted[0] - X.mean(axis=0) @ wanted[1:])


def test_each_target_has_its_own_penalty_and_few_rows_choose_none():
    X = RNG.normal(size=(40, 10))
    W, w0 = ridge_leave_one_out(X, np.column_stack([X[:, 0], RNG.normal(size=40)]))
    assert W[0, 0] > 0.95 and np.abs(W[1:, 0]).max() < 0.05
    assert np.abs(W[:, 1]).max() < 0.3
    W, w0 = ridge_leave_one_out(X[:2], np.array([[1.0], [3.0]]))
    assert not W.any() and w0[0] == 2


def test_folds_are_even_and_hang_on_the_seed():
    assert sorted(np.bincount(folds(12, 5, 0)).tolist()) == [2, 2, 2, 3, 3]
    assert sorted(folds(3, 5, 0).tolist()) == [0, 1, 2]
    assert np.array_equal(folds(50, 5, 1), folds(50, 5, 1)) and not np.array_equal(
        folds(50, 5, 1), folds(50, 5, 2)
    )
