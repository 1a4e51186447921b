"""Linear regression on row, column and pair features in closed form (`ridge`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from nncift_core.estimator.contract import Float32, Float64, Int64
from nncift_core.estimator.linear import PENALTIES, folds
from nncift_core.estimator.sides import Arrays, Labels, SideEstimator

_FOLDS = 10
_ROUNDS = 2
_CHUNK = 16_384


class Ridge(SideEstimator):
    """`u f_i + v g_j`, beside the linear mean of the pair features, which is fitted before.

    Minimises `sum (z_ij - u f_i - v g_j)^2 + lambda |u|^2 + mu |v|^2`; lambda is the penalty that predicts
    held-out rows best, mu the one that predicts held-out columns best, by turns.
    """

    name = "ridge"
    needs_rows: ClassVar[bool] = False

    def _learn(self, labels: Labels, seed: int) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        of_row = folds(len(labels.F), _FOLDS, seed)[labels.i]
        of_column = folds(len(labels.G), _FOLDS, seed + 1)[labels.j]
        everything = _Sums.of(labels, np.arange(len(labels.z)))
        by_side = [_held_out(labels, everything, fold) for fold in (of_row, of_column)]
        # Nothing is learned of a side that has a single row or column: it could not be left out.
        chosen = [len(PENALTIES) - 1] * 2
        for _ in range(_ROUNDS):
            for side in (0, 1):
                if by_side[side]:
                    chosen[side] = _best(by_side[side], chosen, side)
        w, r = everything.solve(*chosen).astype(np.float32), labels.F.shape[1]
        weights = {"intercept": w[:1], "row": w[1 : r + 1], "column": w[r + 1 :]}
        penalties = [float(PENALTIES[k]) for k in chosen]
        return weights, {"row_penalty": penalties[0], "column_penalty": penalties[1]}

    def _tile(self, weights: Arrays, F: Float32, G: Float32) -> Float32:
        row, column = F @ weights["row"] + weights["intercept"], G @ weights["column"]
        out: Float32 = row[:, None] + column[None, :]
        return out

    def _pairs(self, weights: Arrays, F: Float32, G: Float32, i: Int64, j: Int64) -> Float32:
        out: Float32 = (F @ weights["row"] + weights["intercept"])[i] + (G @ weights["column"])[j]
        return out


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over labels of x x^T, x z and z^2, with x = [1, f_i, g_j]; r: length of f."""

    gram: Float64
    right: Float64
    squares: float
    r: int

    @classmethod
    def of(cls, labels: Labels, at: Int64) -> _Sums:
        """Over the labels `at`, at the cost of rows and columns, not of labels, but for one sum."""
        F, G, i, j, z = labels.F, labels.G, labels.i[at], labels.j[at], labels.z[at]
        n_i, n_j = np.bincount(i, minlength=len(F)), np.bincount(j, minlength=len(G))
        cross = torch.zeros(len(F), G.shape[1], dtype=torch.float64)
        for k in range(0, len(at), _CHUNK):
            here = slice(k, k + _CHUNK)
            cross.index_add_(0, torch.from_numpy(i[here]), torch.from_numpy(G[j[here]]))
        fg, f, g = F.T @ cross.numpy(), (F.T @ n_i)[:, None], (G.T @ n_j)[:, None]
        n = np.array([[len(at)]])
        gram = np.block([[n, f.T, g.T], [f, (F.T * n_i) @ F, fg], [g, fg.T, (G.T * n_j) @ G]])
        z_i, z_j = np.bincount(i, z, len(F)), np.bincount(j, z, len(G))
        right = np.concatenate([[z.sum()], F.T @ z_i, G.T @ z_j])
        return cls(gram, right, float(z @ z), F.shape[1])

    def without(self, other: _Sums) -> _Sums:
        """Over the labels that `other` has not."""
        squares = self.squares - other.squares
        return _Sums(self.gram - other.gram, self.right - other.right, squares, self.r)

    def solve(self, row: int, column: int) -> Float64:
        """[intercept, u, v] for the penalties of these numbers, times each side's mean sum of squares.

        The intercept has no penalty: features centred over all labelled rows would otherwise tell the
        mean of those left out.
        """
        sides = slice(1, self.r + 1), slice(self.r + 1, None)
        penalty, diagonal = np.zeros(len(self.gram)), np.diag(self.gram)
        for side, k in zip(sides, (row, column), strict=True):
            penalty[side] = PENALTIES[k] * max(float(diagonal[side].sum()), 1e-12)
        return np.asarray(np.linalg.solve(self.gram + np.diag(penalty), self.right), np.float64)

    def error(self, w: Float64) -> float:
        """Sum of squared errors of the weights w on these labels."""
        return float(self.squares - 2 * w @ self.right + w @ self.gram @ w)


def _held_out(labels: Labels, everything: _Sums, fold: Int64) -> list[tuple[_Sums, _Sums]]:
    """(the labels to fit, the labels left out) for each fold; empty when there is but one."""
    if fold.max() == 0:
        return []
    parts = [_Sums.of(labels, np.flatnonzero(fold == f)) for f in range(int(fold.max()) + 1)]
    return [(everything.without(part), part) for part in parts]


def _best(parts: list[tuple[_Sums, _Sums]], chosen: list[int], side: int) -> int:
    """Number of the penalty of `side` with the least error on what was left out, the largest on a tie."""
    errors = []
    for k in range(len(PENALTIES)):
        row, column = (k, chosen[1]) if side == 0 else (chosen[0], k)
        errors.append(sum(out.error(fit.solve(row, column)) for fit, out in parts))
    return len(errors) - 1 - int(np.argmin(errors[::-1]))
