"""Low-rank factors of the labelled values, regressed on features (`factor`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.baselines import shrunk_effects
from nncift_core.estimator.contract import Float32, Float64, Int64
from nncift_core.estimator.linear import folds, ridge_leave_one_out
from nncift_core.estimator.sides import Arrays, InnerProduct, Labels, WarmSides
from nncift_core.estimator.warm import Start

RANKS = (1, 2, 4, 8)
_FOLDS = 5
_EFFECT_SHRINKAGE = 1.0
_ALS_PENALTY = 2.0
_ALS_ROUNDS = 10
_LABELS_FOR_RANK = 20_000


class Factor(InnerProduct, WarmSides):
    """`r(f_i) + c(g_j) + <a(f_i), b(g_j)>` with r, c, a and b linear in the features.

    Row and column effects of the labels are taken out, what is left is factored into A B^T of low rank
    (singular value decomposition of a full block; alternating least squares with ridge for scattered
    pairs), and effects and factors are regressed on the features by ridge, each with its own penalty by
    leave-one-out. The rank is the one of 1, 2, 4, 8 that predicts held-out rows x held-out columns best;
    after a warm start its rank and the next one stand for choice, and alternating starts at its column
    factors.
    """

    name = "factor"

    def _learn(self, labels: Labels, seed: int) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        return _of_ranks(labels, RANKS, seed, None)

    def _continue(
        self, labels: Labels, seed: int, start: Start
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        rank = int(start.facts["rank"])
        W, w0 = (start.weights[name].astype(np.float64) for name in ("column", "column0"))
        factors = ((labels.G @ start.columns.T + start.columns.t) @ W + w0)[:, 1:]
        # More labels can bear a higher rank, hardly a lower one.
        ranks = tuple(k for k in RANKS if rank <= k <= 2 * rank)
        return _of_ranks(labels, ranks, seed, factors * np.sqrt(start.ratio))

    def _vectors(self, weights: Arrays, F: Float32, G: Float32) -> tuple[Float32, Float32]:
        return _sides(weights, F, G)


def _of_ranks(
    labels: Labels, ranks: tuple[int, ...], seed: int, factors: Float64 | None
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Weights and facts of the best of `ranks`; factors [L_c, k]: of the columns, to start at."""
    errors = _rank_errors(labels, ranks, seed)
    # The smallest rank that is as good as the best one.
    rank = min((k for k in errors if errors[k] <= 1.001 * min(errors.values())), default=ranks[0])
    weights = _fit(labels, [rank], seed, factors)[rank]
    return weights, {"rank": rank, "held_out_mse": errors.get(rank)}


def _sides(weights: Arrays, F: npt.NDArray[Any], G: npt.NDArray[Any]) -> tuple[Any, Any]:
    """[r, 1, a] of rows and [1, c, b] of columns: their inner product is the prediction."""
    left, right = F @ weights["row"] + weights["row0"], G @ weights["column"] + weights["column0"]
    a, b = np.insert(left, 1, 1.0, axis=1), np.insert(right, 0, 1.0, axis=1)
    return a, b


def _fit(
    labels: Labels, ranks: list[int], seed: int, factors: Float64 | None = None
) -> dict[int, dict[str, npt.NDArray[Any]]]:
    """Weights for each of the ranks; factors: as `_of_ranks`."""
    r, c = shrunk_effects(labels.i, labels.j, labels.z, _EFFECT_SHRINKAGE)
    left = labels.z - r[labels.i] - c[labels.j]
    found = {}
    block = _block(labels, left)
    svd = None if block is None else np.linalg.svd(block, full_matrices=False)
    for rank in ranks:
        k = min(rank, len(r), len(c))
        if svd is not None:
            root = np.sqrt(svd[1][:k])
            A, B = svd[0][:, :k] * root, svd[2][:k].T * root
        else:
            A, B = _als(labels, left, len(r), len(c), k, seed, factors)
        row, row0 = ridge_leave_one_out(labels.F, np.column_stack([r, A]))
        column, column0 = ridge_leave_one_out(labels.G, np.column_stack([c, B]))
        parts = {"row": row, "row0": row0, "column": column, "column0": column0}
        found[rank] = {name: x.astype(np.float32) for name, x in parts.items()}
    return found


def _block(labels: Labels, left: Float64) -> Float64 | None:
    """The labels as a matrix [L_r, L_c]; None when they are not one of each row with each column."""
    shape = len(labels.F), len(labels.G)
    flat = labels.i * shape[1] + labels.j
    if len(flat) != shape[0] * shape[1] or len(np.unique(flat)) != len(flat):
        return None
    out = np.empty(len(flat))
    out[flat] = left
    return out.reshape(shape)


def _als(
    labels: Labels, left: Float64, m: int, n: int, k: int, seed: int, factors: Float64 | None = None
) -> tuple[Float64, Float64]:
    """A [m, k], B [n, k] of the least `sum (left - A_i B_j)^2 + penalty (|A|^2 + |B|^2)`, by turns."""
    B = np.random.default_rng(seed).normal(size=(n, k))
    if factors is not None:
        B[:, : factors.shape[1]] = factors[:, :k]
    A = np.zeros((m, k))
    for _ in range(_ALS_ROUNDS):
        A = _solve_side(labels.i, B[labels.j], left, m)
        B = _solve_side(labels.j, A[labels.i], left, n)
    return A, B


def _solve_side(index: Int64, X: Float64, y: Float64, n: int) -> Float64:
    """Ridge of y on X [k, r] within each group `index` [k] -> [n, r]."""
    r = X.shape[1]
    gram, right = np.empty((n, r, r)), np.empty((n, r, 1))
    for a in range(r):
        right[:, a, 0] = np.bincount(index, X[:, a] * y, n)
        for b in range(a, r):
            gram[:, a, b] = gram[:, b, a] = np.bincount(index, X[:, a] * X[:, b], n)
    gram += _ALS_PENALTY * np.eye(r)
    return np.asarray(np.linalg.solve(gram, right)[:, :, 0], np.float64)


def _rank_errors(labels: Labels, ranks: tuple[int, ...], seed: int) -> dict[int, float]:
    """Mean squared error of each rank on held-out rows x held-out columns; empty when they are too few."""
    m, n = len(labels.F), len(labels.G)
    if m < 3 or n < 3:
        return {}
    full = _block(labels, labels.z) is not None
    if not full and len(labels.z) > _LABELS_FOR_RANK:
        some = np.random.default_rng(seed).choice(len(labels.z), _LABELS_FOR_RANK, replace=False)
        labels = labels.take(np.sort(some))
        m, n = len(labels.F), len(labels.G)
    of_row, of_column = folds(m, _FOLDS, seed), folds(n, _FOLDS, seed + 1)
    every = full and len(labels.z) <= _LABELS_FOR_RANK
    pairs = [(f, g) for f in range(min(m, _FOLDS)) for g in range(min(n, _FOLDS)) if every or f == g]
    errors, count = dict.fromkeys(ranks, 0.0), 0
    for f, g in pairs:
        row_out, column_out = (of_row == f)[labels.i], (of_column == g)[labels.j]
        train, test = np.flatnonzero(~row_out & ~column_out), np.flatnonzero(row_out & column_out)
        if len(train) == 0 or len(test) == 0:
            continue
        held_out = labels.take(test)
        count += len(test)
        for rank, weights in _fit(labels.take(train), list(ranks), seed).items():
            a, b = _sides(weights, held_out.F, held_out.G)
            predicted = np.einsum("kr,kr->k", a[held_out.i], b[held_out.j])
            errors[rank] += float(np.square(predicted - held_out.z).sum())
    return {rank: e / count for rank, e in errors.items()} if count else {}
