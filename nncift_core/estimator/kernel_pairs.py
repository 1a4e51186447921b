"""Pair form of the kernel estimator: labels at scattered pairs, covariance `k_r(i, i') k_c(j, j')`.

Hyperparameters come from a subsample of pairs. The solve is one Cholesky factor up to `DIRECT` labels and
conjugate gradients beyond (`kernel_iterative`); the linear mean is part of the covariance, `F diag(t) F^T`,
so that there is one right-hand side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from nncift_core.estimator.contract import Float64, Int64
from nncift_core.estimator.kernel_block import likelihood
from nncift_core.estimator.kernel_search import FLOOR, Hyper, scale_of
from nncift_core.estimator.kernel_sides import Side

DIRECT = 3000


@dataclass(frozen=True, eq=False)
class Pairs:
    """Labelled pairs: rows r [k] and columns c [k] as positions among the labelled items, standardised
    labels y [k] and pair features F [p, k]."""

    r: Int64
    c: Int64
    y: Float64
    F: Float64

    def take(self, at: Int64) -> Pairs:
        """The pairs at `at`."""
        return Pairs(self.r[at], self.c[at], self.y[at], np.ascontiguousarray(self.F[:, at]))


class PairLikelihood:
    """Negative log marginal likelihood of scattered labels and its slopes, as `BlockLikelihood`.

    row_distances [groups, R, R], column_distances [groups, C, C]: of the items that `pairs` name.
    """

    def __init__(self, pairs: Pairs, row_distances: Float64, column_distances: Float64) -> None:
        self.pairs = pairs
        self.row_distances, self.column_distances = row_distances, column_distances
        self.same_row, self.same_column = (np.eye(d.shape[1]) for d in (row_distances, column_distances))

    def __call__(self, hyper: Hyper) -> tuple[float, Float64]:
        """(value, slopes by the logarithms in the order of `Hyper.of`)."""
        y, F = self.pairs.y, self.pairs.F
        K_r, E_r = hyper.rows.kernel(self.row_distances, self.same_row)
        K_c, E_c = hyper.columns.kernel(self.column_distances, self.same_column)
        r, c = self.pairs.r, self.pairs.c
        by_row, by_column = K_r[r][:, r], K_c[c][:, c]
        sigma = by_row * by_column + (F.T * hyper.widths) @ F
        np.fill_diagonal(sigma, sigma.diagonal() + hyper.noise)
        inverse, logdet = _invert(sigma)
        alpha = inverse @ y
        quadratic = float(y @ alpha)
        G = 0.5 * (inverse - np.outer(alpha / scale_of(quadratic, len(y)), alpha))
        G_r = _collect(G * by_column, r, len(K_r))
        G_c = _collect(G * by_row, c, len(K_c))
        slopes = [
            hyper.rows.slopes(G_r, self.row_distances, E_r, self.same_row),
            hyper.columns.slopes(G_c, self.column_distances, E_c, self.same_column),
            [(hyper.noise - FLOOR) * float(np.trace(G))],
            hyper.widths * np.einsum("pk,pk->p", F @ G, F),
        ]
        return likelihood(quadratic, logdet, len(y)), np.concatenate(slopes)


@dataclass(frozen=True, eq=False)
class PairSolve:
    """What the prediction needs of a solve.

    W [m_r, m_c], row_part [R, m_c], column_part [m_r, C]: see `Thin`; beta [p]: slopes of the standardised
    pair features; quadratic: `y^T Sigma^-1 y`; logdet: of Sigma, None after conjugate gradients; steps: how
    many of those, 0 for Cholesky.
    """

    W: Float64
    row_part: Float64
    column_part: Float64
    beta: Float64
    quadratic: float
    logdet: float | None
    steps: int


def covariance(rows: Side, columns: Side, pairs: Pairs, noise: float, widths: Float64) -> Float64:
    """Sigma of the labels at `pairs`, [k, k]; the sides' landmarks are all labelled items."""
    K_r = rows.own_kernel() + rows.d * np.eye(len(rows.x))
    K_c = columns.own_kernel() + columns.d * np.eye(len(columns.x))
    sigma = K_r[pairs.r][:, pairs.r]
    sigma *= K_c[pairs.c][:, pairs.c]
    sigma += (pairs.F.T * widths) @ pairs.F
    np.fill_diagonal(sigma, sigma.diagonal() + noise)
    return sigma


def solve_direct(rows: Side, columns: Side, pairs: Pairs, noise: float, widths: Float64) -> PairSolve:
    """By one Cholesky factor, k^3 / 3 operations."""
    sigma = torch.from_numpy(covariance(rows, columns, pairs, noise, widths))
    L = torch.linalg.cholesky(sigma)
    y = torch.from_numpy(pairs.y)[:, None]
    alpha = np.ascontiguousarray(torch.cholesky_solve(y, L)[:, 0].numpy())
    W = spread(pairs, alpha, (len(rows.x), len(columns.x)))
    beta, quadratic = widths * (pairs.F @ alpha), float(pairs.y @ alpha)
    return PairSolve(W, rows.d * W, columns.d * W, beta, quadratic, 2 * float(L.diagonal().log().sum()), 0)


@dataclass(frozen=True, eq=False)
class PairVariance:
    """Variance of the prediction's error, relative to the labels' common scale, given the labels at `pairs`:
    `s^2 + k(x, x) - k(x, pairs) Sigma^-1 k(pairs, x)` with the linear mean part of k."""

    pairs: Pairs
    inverse: Float64
    noise: float
    widths: Float64

    @classmethod
    def of(cls, rows: Side, columns: Side, pairs: Pairs, noise: float, widths: Float64) -> PairVariance:
        """One inverse of k x k."""
        inverse, _ = _invert(covariance(rows, columns, pairs, noise, widths))
        return cls(pairs, inverse, noise, widths)

    def variance(self, k_r: Float64, k_c: Float64, prior: float, f: Float64) -> Float64:
        """Of n pairs: k_r [n, R], k_c [n, C] kernels with the labelled items, f [p, n] pair features."""
        near = k_r[:, self.pairs.r] * k_c[:, self.pairs.c] + (f.T * self.widths) @ self.pairs.F
        known = np.einsum("nk,nk->n", near @ self.inverse, near)
        mean = self.widths @ np.square(f)
        out: Float64 = self.noise + np.maximum(prior + mean - known, 0)
        return out


def spread(pairs: Pairs, v: Float64, shape: tuple[int, int]) -> Float64:
    """v [k] at its places in a matrix of `shape`, zero elsewhere."""
    out = np.zeros(shape)
    out[pairs.r, pairs.c] = v
    return out


def _collect(G: Float64, at: Int64, n: int) -> Float64:
    """Sums of G [k, k] over the pairs of each two of n items, [n, n]."""
    member = torch.zeros((n, len(at)), dtype=torch.float64)
    member[torch.from_numpy(at), torch.arange(len(at))] = 1.0
    sparse = member.to_sparse()
    half = torch.sparse.mm(sparse, torch.from_numpy(G))
    out: Float64 = torch.sparse.mm(sparse, half.T.contiguous()).numpy()
    return out


def _invert(sigma: Float64) -> tuple[Float64, float]:
    # numpy's inverse is many times faster than LAPACK's from a Cholesky factor.
    logdet = 2 * float(np.log(np.diag(np.linalg.cholesky(sigma))).sum())
    return np.asarray(np.linalg.inv(sigma), dtype=np.float64), logdet
