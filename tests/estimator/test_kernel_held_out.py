"""Slopes of pair features over held-out blocks: by the plain formula, and what they are for."""

from __future__ import annotations

import numpy as np
import pytest

from nncift_core.estimator import kernel
from nncift_core.estimator.contract import EMBEDDING, PROXY, Features
from nncift_core.estimator.kernel import Kernel
from nncift_core.estimator.kernel_held_out import held_out_slopes
from nncift_core.estimator.kernel_search import Hyper
from nncift_core.estimator.pair_features import Table


def problem(R: int, C: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, Hyper]:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(R, 2)), rng.normal(size=(C, 2))
    D_r, D_c = (((v[:, None] - v) ** 2).sum(axis=2)[None] for v in (x, y))
    hyper = Hyper.of(np.log([0.5, 0.2, 0.1, 0.4, 0.3, 0.2, 0.3, 0.5, 0.5]), 1, 1)
    return rng.normal(size=(3, R, C)), D_r, D_c, hyper


@pytest.mark.parametrize("R, C", [(9, 8), (8, 1)])
def test_slopes_are_least_squares_of_what_the_process_leaves_over(R: int, C: int):
    labels, D_r, D_c, hyper = problem(R, C)

    def K(weights, D, same):
        return weights.a + np.exp(-weights.w[0] * D) + weights.d * same

    left = []
    for a in range(4):
        for b in range(4 if C >= 4 else 1):
            row, column = np.arange(R) % 4, np.arange(C) % 4
            fit = [(i, j) for i in range(R) for j in range(C) if row[i] != a and (C < 4 or column[j] != b)]
            out = [(i, j) for i in range(R) for j in range(C) if row[i] == a and (C < 4 or column[j] == b)]

            def cov(p, q):
                r, s = D_r[0, p[0], q[0]], D_c[0, p[1], q[1]]
                return K(hyper.rows, r, p[0] == q[0]) * K(hyper.columns, s, p[1] == q[1])

            S = np.array([[cov(p, q) for q in fit] for p in fit]) + hyper.noise * np.eye(len(fit))
            k = np.array([[cov(p, q) for q in fit] for p in out])
            at, to = np.array(fit).T, np.array(out).T
            known = k @ np.linalg.solve(S, labels[:, at[0], at[1]].T)
            left.append(labels[:, to[0], to[1]].T - known)
    rest = np.concatenate(left)
    X = np.c_[np.ones(len(rest)), rest[:, 1:]]
    expected = np.linalg.solve(X.T @ X + np.diag([1e-9, 5, 5]), X.T @ rest[:, 0])[1:]
    np.testing.assert_allclose(held_out_slopes(labels, D_r, D_c, hyper), expected, atol=1e-9)


def test_too_few_rows_say_nothing():
    assert held_out_slopes(*problem(3, 8)) is None


def test_the_fit_takes_the_middle_of_both_slopes(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    sides = [{EMBEDDING: rng.normal(size=(n, 3)).astype(np.float32)} for n in (20, 10)]
    proxy = rng.normal(size=(20, 10)).astype(np.float32)
    f = Features(np.arange(20), np.arange(90, 100), sides[0], sides[1], {PROXY: Table(proxy)})
    i, j = np.repeat(np.arange(12), 6), np.tile(np.arange(6), 12)
    Z = 0.5 * proxy + rng.normal(size=proxy.shape)
    slopes, predictions = [], []
    for found in (None, np.array([1.0])):
        monkeypatch.setattr(kernel, "held_out_slopes", lambda *given, found=found: found)
        model = Kernel().fit(f, i, j, Z[i, j], seed=0)
        slopes.append(model.describe()["pair_features"][PROXY])
        predictions.append(model.predict(f)[12:, 6:])
    assert slopes[1] == pytest.approx((slopes[0] + 1) / 2)
    gained = np.corrcoef((predictions[1] - predictions[0]).ravel(), proxy[12:, 6:].ravel())[0, 1]
    assert gained > 0.9
