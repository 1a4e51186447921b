"""Labelled rows and columns that are nearest in feature space (`knn`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.baselines import shrunk_effects
from nncift_core.estimator.contract import Float32, Float64, Int64
from nncift_core.estimator.sides import Arrays, Labels, SideEstimator

NEIGHBOURS = (1, 2, 4, 8, 16, 32)
_EFFECT_SHRINKAGE = 1.0
# Labelled pairs near a pair at which their mean keeps half of its value.
_SUPPORT = 1.0
_MAX_TABLE = 1 << 21
_QUERIES = 1024
_ROWS = 1024


class Neighbours(SideEstimator):
    """`s_r r(i) + s_c c(j) + s_e e(i, j)`: weighted means over the k nearest labelled rows and columns.

    r and c average the row and column effects of the labels; e averages what these leave over at the
    pairs of near rows and near columns. A neighbour at distance d weighs `1 / (d^2 + h^2)`, h the distance
    of the k-th. k, of 1 .. 32 for rows and for columns, and the slopes s, in [0, 1], are those that predict
    labels best from the labels of other rows and other columns. e is left out when labelled rows times
    labelled columns exceed 2^21.
    """

    name = "knn"

    def _learn(self, labels: Labels, seed: int) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        m, n = len(labels.F), len(labels.G)
        r, c = shrunk_effects(labels.i, labels.j, labels.z, _EFFECT_SHRINKAGE)
        table = np.zeros((0, 0), np.float32)
        count = np.zeros((0, 0), np.float32)
        if m * n <= _MAX_TABLE and labels.F.shape[1] and labels.G.shape[1]:
            flat, left = labels.i * n + labels.j, labels.z - r[labels.i] - c[labels.j]
            table = np.bincount(flat, left, m * n).reshape(m, n).astype(np.float32)
            count = np.bincount(flat, minlength=m * n).reshape(m, n).astype(np.float32)
        weights = {
            "rows": labels.F.astype(np.float32),
            "columns": labels.G.astype(np.float32),
            "row_effects": r.astype(np.float32),
            "column_effects": c.astype(np.float32),
            "table": table,
            "count": np.zeros((0, 0), np.float32) if (count == 1).all() else count,
        }
        k, q, slopes, error = _choose(weights, labels)
        weights |= {"neighbours": np.array([k, q], np.int64), "slopes": slopes.astype(np.float32)}
        facts = {
            "row_neighbours": k,
            "column_neighbours": q,
            "slopes": slopes.tolist(),
            "held_out_mse": error,
        }
        return weights, facts

    def _tile(self, weights: Arrays, F: Float32, G: Float32) -> Float32:
        k, q = weights["neighbours"]
        s = weights["slopes"]
        column = _near(weights["columns"], G, q)
        c = s[1] * column.mean(weights["column_effects"])
        B = column.matrix(len(weights["columns"])) if weights["table"].size else None
        out = np.empty((len(F), len(G)), np.float32)
        for start in range(0, len(F), _ROWS):
            row = _near(weights["rows"], F[start : start + _ROWS], k)
            tile = out[start : start + _ROWS]
            tile[:] = (s[0] * row.mean(weights["row_effects"]))[:, None] + c[None, :]
            if B is not None and s[2] > 0:
                A = row.matrix(len(weights["rows"]))
                mean = (A @ weights["table"]) @ B.T
                if weights["count"].size:
                    mean /= (A @ weights["count"]) @ B.T + np.float32(_SUPPORT / (k * q))
                tile += s[2] * mean
        return out

    def _pairs(self, weights: Arrays, F: Float32, G: Float32, i: Int64, j: Int64) -> Float32:
        k, q = weights["neighbours"]
        s = weights["slopes"]
        row, column = _near(weights["rows"], F, k), _near(weights["columns"], G, q)
        r, c = row.mean(weights["row_effects"]), column.mean(weights["column_effects"])
        out: Float32 = s[0] * r[i] + s[1] * c[j]
        if not weights["table"].size or not s[2] > 0:
            return out
        for start in range(0, len(i), _ROWS):
            here = slice(start, start + _ROWS)
            near = row.at[i[here]][:, :, None], column.at[j[here]][:, None, :]
            w = row.weights[i[here]][:, :, None] * column.weights[j[here]][:, None, :]
            mean = (w * weights["table"][near]).sum(axis=(1, 2))
            if weights["count"].size:
                mean /= (w * weights["count"][near]).sum(axis=(1, 2)) + np.float32(_SUPPORT / (k * q))
            out[here] += s[2] * mean
        return out


@dataclass(frozen=True, eq=False)
class _Near:
    """The k nearest labelled things of n: at [n, k] and weights [n, k], which sum to 1; k = 0: unknown."""

    at: Int64
    weights: Float32

    def mean(self, effects: Float32) -> Float32:
        """Weighted mean of `effects` [L] over the neighbours, [n]; 0 without neighbours."""
        out: Float32 = (self.weights * effects[self.at]).sum(axis=1)
        return out

    def matrix(self, size: int) -> Float32:
        """The weights as a matrix [n, size]."""
        out = np.zeros((len(self.at), size), np.float32)
        np.put_along_axis(out, self.at, self.weights, axis=1)
        return out


def _near(labelled: Float32, X: Float32, k: int, itself: Int64 | None = None) -> _Near:
    """The k nearest of `labelled` [L, d] to each of X [n, d], but not the one at `itself` [n]."""
    return _weighted(*_sorted(labelled, X, k, itself), k)


def _weighted(at: Int64, squares: Float32, k: int) -> _Near:
    """The first k of sorted neighbours `at` [n, K] with squared distances `squares` [n, K]."""
    d = squares[:, :k]
    w = 1 / (d + np.maximum(d[:, -1:], np.float32(1e-12)))
    return _Near(at[:, :k], w / w.sum(axis=1, keepdims=True))


def _sorted(labelled: Float32, X: Float32, k: int, itself: Int64 | None = None) -> tuple[Int64, Float32]:
    """Where the k nearest of `labelled` are [n, k], nearest first, and their squared distances [n, k].

    k is at most the number there are, and 0 where nothing was measured of them.
    """
    n, most = len(X), len(labelled) - (itself is not None)
    k = min(int(k), most) if labelled.shape[1] else 0
    at, found = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    squares = np.square(labelled).sum(axis=1)
    for start in range(0, n if k else 0, _ROWS):
        here = slice(start, start + _ROWS)
        x = X[here]
        distance = np.square(x).sum(axis=1)[:, None] + squares[None, :] - 2 * (x @ labelled.T)
        np.maximum(distance, 0, out=distance)
        if itself is not None:
            distance[np.arange(len(x)), itself[here]] = np.inf
        first = np.argpartition(distance, k - 1, axis=1)[:, :k]
        d = np.take_along_axis(distance, first, axis=1)
        order = np.lexsort((first, d), axis=1)
        at[here] = np.take_along_axis(first, order, axis=1)
        found[here] = np.take_along_axis(d, order, axis=1)
    return at, found


def _choose(weights: Arrays, labels: Labels) -> tuple[int, int, Float64, float | None]:
    """k of rows, k of columns, slopes, and the mean squared error on labels from other rows and columns.

    Judged on the labels between at most 1,024 rows and 1,024 columns.
    """
    m, n = len(labels.F), len(labels.G)
    rows = np.unique(np.linspace(0, m - 1, min(m, _QUERIES)).astype(np.int64))
    columns = np.unique(np.linspace(0, n - 1, min(n, _QUERIES)).astype(np.int64))
    test = np.flatnonzero(np.isin(labels.i, rows) & np.isin(labels.j, columns))
    i, j, z = np.searchsorted(rows, labels.i[test]), np.searchsorted(columns, labels.j[test]), labels.z[test]
    if len(test) < 3:
        return 1, 1, np.zeros(3), None
    near_rows = _sorted(weights["rows"], weights["rows"][rows], NEIGHBOURS[-1], rows)
    near_columns = _sorted(weights["columns"], weights["columns"][columns], NEIGHBOURS[-1], columns)
    by_row = [_weighted(*near_rows, k) for k in _sizes(m)]
    by_column = [_weighted(*near_columns, k) for k in _sizes(n)]
    best: tuple[float, int, int, Float64] = (float(np.square(z).sum()), 1, 1, np.zeros(3))
    B = [column.matrix(n) for column in by_column]
    for k, row in zip(_sizes(m), by_row, strict=True):
        A = row.matrix(m)
        AE = A @ weights["table"] if weights["table"].size else None
        AW = A @ weights["count"] if weights["count"].size else None
        r = row.mean(weights["row_effects"])[i]
        for q, column, b in zip(_sizes(n), by_column, B, strict=True):
            e: Float64 = np.zeros(len(z))
            if AE is not None:
                e = (AE @ b.T)[i, j].astype(np.float64)
                if AW is not None:
                    e /= (AW @ b.T)[i, j] + _SUPPORT / (k * q)
            X = np.column_stack([r, column.mean(weights["column_effects"])[j], e]).astype(np.float64)
            slopes = _slopes(X, z)
            error = float(np.square(z - X @ slopes).sum())
            if error < best[0]:
                best = error, k, q, slopes
    return best[1], best[2], best[3], best[0] / len(z)


def _sizes(n: int) -> list[int]:
    """The numbers of neighbours to try among n - 1 others; at least one."""
    return [k for k in NEIGHBOURS if k < n] or [1]


def _slopes(X: Float64, z: Float64) -> Float64:
    """Least squares of z [k] on X [k, p] with slopes in [0, 1], by turns."""
    gram, right = X.T @ X, X.T @ z
    s = np.zeros(X.shape[1])
    for _ in range(100):
        for p in np.flatnonzero(np.diag(gram) > 0):
            s[p] = np.clip(s[p] + (right[p] - gram[p] @ s) / gram[p, p], 0, 1)
    return s
