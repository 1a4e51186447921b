"""Ridge regression with the penalty chosen by leaving out, and random folds of rows."""

from __future__ import annotations

import numpy as np

from nncift_core.estimator.contract import Float64, Int64

# Penalties as shares of the features' mean square; the last leaves next to nothing but the mean.
PENALTIES = np.array([1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 1e6])


def folds(n: int, most: int, seed: int) -> Int64:
    """A fold 0 .. min(n, most) - 1 for each of n things: random, sizes equal within 1."""
    out = np.arange(n, dtype=np.int64) % min(n, most)
    return np.random.default_rng(seed).permutation(out)


def ridge_leave_one_out(X: Float64, Y: Float64) -> tuple[Float64, Float64]:
    """Weights [d, m] and intercepts [m] of Y [n, m] on X [n, d], each column with a penalty of its own.

    With the singular vectors u of the centred X and singular values s, the hat matrix is
    `1/n + u diag(s^2 / (s^2 + lambda)) u^T`, and the error of row i left out is
    `(y_i - yhat_i) / (1 - h_ii)` (Allen 1974): the penalty of `PENALTIES` times the sum of s^2 with the
    least sum of squares is taken, the largest one on a tie. Fewer than 3 rows choose nothing: weights 0.
    """
    n, centre, intercept = len(X), X.mean(axis=0), Y.mean(axis=0)
    if n < 3 or X.shape[1] == 0:
        return np.zeros((X.shape[1], Y.shape[1])), intercept
    u, s, vt = np.linalg.svd(X - centre, full_matrices=False)
    keep = s > 1e-7 * max(float(s[0]), 1e-300)
    u, s, vt = u[:, keep], s[keep], vt[keep]
    projected = u.T @ (Y - intercept)
    best, weights = np.full(Y.shape[1], np.inf), np.zeros((len(s), Y.shape[1]))
    for penalty in PENALTIES[::-1] * np.square(s).sum():
        shrink = s**2 / (s**2 + penalty)
        left = (1 - 1 / n - np.square(u) @ shrink)[:, None]
        errors = (Y - intercept - u @ (shrink[:, None] * projected)) / np.maximum(left, 1e-6)
        total = np.square(errors).sum(axis=0)
        better = total < best
        best = np.where(better, total, best)
        weights = np.where(better, (s / (s**2 + penalty))[:, None] * projected, weights)
    W: Float64 = vt.T @ weights
    return W, intercept - centre @ W
