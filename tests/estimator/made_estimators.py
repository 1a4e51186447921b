"""Small problems and estimators of the contract for the tests of choice and gate."""

from __future__ import annotations

import numpy as np

from nncift_core.estimator.contract import COSINE, EMBEDDING, LENGTHS, Features, checked_labels
from nncift_core.estimator.pair_features import Table


class Linear:
    """Ridge on the products of row and column embedding and on both, its weight chosen on held-out rows."""

    name, learned = "linear", True

    def fit(self, features, i, j, values, *, seed):
        z = checked_labels(features, i, j, values)
        x = self._inputs(features, i, j)
        held = i % 4 == 0
        if held.all() or not held.any():
            raise ValueError("needs rows to hold out")
        errors = []
        for weight in (10.0, 100.0, 1000.0, 10000.0):
            mean, beta = _ridge(x[~held], z[~held], weight)
            errors.append((np.square(mean + x[held] @ beta - z[held]).mean(), weight))
        self.mean, self.beta = _ridge(x, z, min(errors)[1])
        return self

    def predict_pairs(self, features, i, j):
        return (self.mean + self._inputs(features, i, j) @ self.beta).astype(np.float32)

    def _inputs(self, features, i, j):
        if EMBEDDING not in features.rows:
            raise ValueError(f"needs the group {EMBEDDING!r}")
        u, v = features.rows[EMBEDDING][i], features.columns[EMBEDDING][j]
        return np.c_[np.einsum("ka,kb->kab", u, v).reshape(len(i), -1), u, v].astype(np.float64)


class Constant:
    """The mean of the labels."""

    name, learned = "constant", False

    def fit(self, features, i, j, values, *, seed):
        self.mean = float(checked_labels(features, i, j, values).mean())
        return self

    def predict_pairs(self, features, i, j):
        return np.full(len(i), self.mean, np.float32)


class Means:
    """Mean of the labels of the column, the mean of all for an unknown one."""

    name, learned = "means", False

    def fit(self, features, i, j, values, *, seed):
        z = checked_labels(features, i, j, values)
        self.of = {c: float(z[j == c].mean()) for c in np.unique(j)}
        self.mean = float(z.mean())
        return self

    def predict_pairs(self, features, i, j):
        return np.array([self.of.get(c, self.mean) for c in j], np.float32)


class Cosine:
    """Least squares on the pair feature."""

    name, learned = COSINE, False

    def fit(self, features, i, j, values, *, seed):
        z = checked_labels(features, i, j, values)
        self.slope, self.intercept = np.polyfit(features.pairs[COSINE].at(i, j), z, 1)
        return self

    def predict_pairs(self, features, i, j):
        return (self.intercept + self.slope * features.pairs[COSINE].at(i, j)).astype(np.float32)


class Broken(Linear):
    """Fails in every fit."""

    name = "broken"

    def fit(self, features, i, j, values, *, seed):
        raise RuntimeError("linalg.cholesky: not positive-definite")


BASELINES = {"constant": Constant, "means": Means, "cosine": Cosine}


def made(seed, kind="learnable", rows=200, columns=40, d=10):
    """Features and a matrix [rows, columns].

    learnable: rank 2 in the embeddings plus 20 % noise in variance; noise: nothing; column: effects of
    columns that no feature tells, and noise.
    """
    rng = np.random.default_rng(seed)
    u, v = rng.normal(size=(rows, d)), rng.normal(size=(columns, d))
    noise = rng.normal(size=(rows, columns))
    if kind == "learnable":
        signal = u @ rng.normal(size=(d, 2)) @ rng.normal(size=(2, d)) @ v.T
        matrix = np.sqrt(0.8) * signal / signal.std() + np.sqrt(0.2) * noise
    else:
        matrix = noise + (2 * rng.normal(size=columns) if kind == "column" else 0)
    u32, v32 = u.astype(np.float32), v.astype(np.float32)
    # Unrelated to the matrix.
    lengths = [rng.normal(size=(n, 1)).astype(np.float32) for n in (rows, columns)]
    features = Features(
        rng.permutation(rows * 50)[:rows].astype(np.int64),
        rng.permutation(columns * 50)[:columns].astype(np.int64),
        {EMBEDDING: u32, LENGTHS: lengths[0]},
        {EMBEDDING: v32, LENGTHS: lengths[1]},
        {COSINE: Table(u32 @ v32.T)},
    )
    return features, matrix


def block(rows, columns):
    """Positions of all pairs of some rows and columns, each [k]."""
    i, j = np.meshgrid(rows, columns, indexing="ij")
    return i.ravel(), j.ravel()


def scattered(shape, n, seed, but=None):
    """n random pairs, none of which is in `but` (i, j)."""
    free = np.ones(shape, bool)
    if but is not None:
        free[but] = False
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(free.ravel()))[:n]
    return np.divmod(chosen, shape[1])


def _ridge(x, z, weight):
    mean = z.mean()
    return mean, np.linalg.solve(x.T @ x + weight * np.eye(x.shape[1]), x.T @ (z - mean))
