"""Scattered labels as a linear design in the bases of the kernels: what `kernel_iterative` solves.

The Gaussian process over pairs is a linear model `y = sum_p X_p h_p + noise`, `h_p ~ N(0, diag(prior_p))`,
in bases where the prior is diagonal. `Grid` has the eigenvectors of both kernels among the labelled items:
`f = Q_r h Q_c^T` at the labelled pairs, prior `l_r l_c^T`. `LandmarkDesign`, for more items than an
eigen-decomposition can take, has Nystroem bases of `LANDMARKS` items, and the own effects of rows and of
columns as parts of their own. The last part is the linear mean on pair features, rotated to be orthogonal.
Arrays are float32: a solve needs three digits.
"""

from __future__ import annotations

from typing import Protocol

import numba
import numpy as np

from nncift_core.estimator.contract import Float32, Float64, Int64
from nncift_core.estimator.kernel_pairs import Pairs
from nncift_core.estimator.kernel_sides import Side

Parts = list[Float32]

# Eigenvalues below this share of the largest are rounding of float32.
_RANK_SHARE = 1e-6


class Design(Protocol):
    """A linear model of n labels in several parts.

    priors: variance of each coefficient, as the part is shaped; counts: about the diagonal of `X_p^T X_p`,
    broadcast to the part's shape. The last part is the linear mean [p].
    """

    priors: Parts
    counts: Parts

    def forward(self, h: Parts) -> Float32:
        """`sum_p X_p h_p` at the labels, [n]."""
        ...

    def adjoint(self, v: Float32) -> Parts:
        """`X_p^T v` of every part, v [n]."""
        ...

    def weights(self, g: Parts) -> tuple[Float64, Float64, Float64]:
        """(W, row_part, column_part) as `Thin` wants them, from `h_p = prior_p g_p`."""
        ...


class Mean:
    """The part of the linear mean: `F^T diag(t)^(1/2) V`, orthogonal columns; V of the eigenvectors."""

    def __init__(self, pairs: Pairs, widths: Float64) -> None:
        scaled = pairs.F * np.sqrt(widths)[:, None]
        values, self.V = np.linalg.eigh(scaled @ scaled.T)
        self.root = np.sqrt(widths)
        self.X: Float32 = (self.V.T @ scaled).astype(np.float32)
        self.prior: Float32 = np.ones(len(values), np.float32)
        self.count: Float32 = np.maximum(values, 0).astype(np.float32)

    def slopes(self, b: Float32) -> Float64:
        """beta [p], slopes of the standardised pair features."""
        out: Float64 = self.root * (self.V @ b.astype(np.float64))
        return out


class Grid:
    """With exact kernels of all labelled items, own effects included."""

    def __init__(self, rows: Side, columns: Side, pairs: Pairs, mean: Mean) -> None:
        self.shape = (len(rows.x), len(columns.x))
        self.own = (rows.d, columns.d)
        l_r, self.exact_r = _eigen(rows.own_kernel() + rows.d * np.eye(self.shape[0]))
        l_c, self.exact_c = _eigen(columns.own_kernel() + columns.d * np.eye(self.shape[1]))
        self.Q_r, self.Q_c = (np.ascontiguousarray(Q, np.float32) for Q in (self.exact_r, self.exact_c))
        self.at: Int64 = pairs.r * self.shape[1] + pairs.c
        self.mean = mean
        self.priors = [l_r[:, None] * l_c, mean.prior]
        share = len(pairs.y) / (self.shape[0] * self.shape[1])
        self.counts = [np.full((1, 1), share, np.float32), mean.count]

    def forward(self, h: Parts) -> Float32:
        """As `Design.forward`."""
        out: Float32 = np.asarray((self.Q_r @ h[0] @ self.Q_c.T).ravel()[self.at])
        out += np.asarray(h[1] @ self.mean.X, np.float32)
        return out

    def adjoint(self, v: Float32) -> Parts:
        """As `Design.adjoint`."""
        there = np.zeros(self.shape, np.float32)
        there.ravel()[self.at] = v
        return [self.Q_r.T @ there @ self.Q_c, self.mean.X @ v]

    def weights(self, g: Parts) -> tuple[Float64, Float64, Float64]:
        """As `Design.weights`."""
        # Rounded eigenvectors would leak weights into directions of huge prior variance.
        W: Float64 = self.exact_r @ g[0].astype(np.float64) @ self.exact_c.T
        return W, self.own[0] * W, self.own[1] * W


class LandmarkDesign:
    """With kernels through landmarks: `K_r = U_r diag(l_r) U_r^T + d_r I`, K_c alike.

    k_r [R, m_r], k_c [C, m_c]: labelled items against landmarks. Parts: both [q_r, q_c], own effects of rows
    [R, q_c], own effects of columns [q_r, C]. Own effects of pairs, `d_r d_c`, count as noise.
    """

    def __init__(
        self, rows: Side, columns: Side, k_r: Float32, k_c: Float32, pairs: Pairs, mean: Mean
    ) -> None:
        self.U_r, l_r, self.to_rows = _basis(rows, k_r)
        self.U_c, l_c, self.to_columns = _basis(columns, k_c)
        shape = (len(k_r), len(k_c))
        self.r, self.c, self.mean = pairs.r, pairs.c, mean
        self.by_row = _Places(pairs.r, pairs.c, shape[0])
        self.by_column = _Places(pairs.c, pairs.r, shape[1])
        self.priors = [
            l_r[:, None] * l_c,
            np.broadcast_to(np.float32(rows.d) * l_c, (shape[0], len(l_c))),
            np.broadcast_to(l_r[:, None] * np.float32(columns.d), (len(l_r), shape[1])),
            mean.prior,
        ]
        of_row, of_column = (
            np.bincount(x, minlength=m) for x, m in zip((pairs.r, pairs.c), shape, strict=True)
        )
        self.counts = [
            np.full((1, 1), len(pairs.y) / (shape[0] * shape[1]), np.float32),
            (of_row[:, None] / shape[1]).astype(np.float32),
            (of_column / shape[0]).astype(np.float32)[None],
            mean.count,
        ]

    def forward(self, h: Parts) -> Float32:
        """As `Design.forward`."""
        both, own_rows, own_columns, b = h
        of_columns = self.U_c @ both.T + own_columns.T
        out: Float32 = b @ self.mean.X
        _add_dots(self.U_r, of_columns, self.r, self.c, out)
        _add_dots(own_rows, self.U_c, self.r, self.c, out)
        return out

    def adjoint(self, v: Float32) -> Parts:
        """As `Design.adjoint`."""
        of_rows = self.by_row.sums(v, self.U_c)
        of_columns = np.ascontiguousarray(self.by_column.sums(v, self.U_r).T)
        return [of_columns @ self.U_c, of_rows, of_columns, self.mean.X @ v]

    def weights(self, g: Parts) -> tuple[Float64, Float64, Float64]:
        """As `Design.weights`."""
        both, own_rows, own_columns = (g[k] * self.priors[k] for k in range(3))
        return (
            self.to_rows @ both @ self.to_columns.T,
            own_rows @ self.to_columns.T,
            self.to_rows @ own_columns,
        )


def _eigen(K: Float64) -> tuple[Float32, Float64]:
    values, vectors = np.linalg.eigh(K)
    return np.maximum(values, 0).astype(np.float32), vectors


def _basis(side: Side, k: Float32) -> tuple[Float32, Float32, Float64]:
    """(U [n, q], l [q], T [m, q]): the Nystroem kernel of n items is `U diag(l) U^T`, with `U = k T` of
    orthogonal columns; k [n, m]: the items against the landmarks."""
    values, vectors = np.linalg.eigh(side.own_kernel())
    keep = values > values[-1] * _RANK_SHARE
    root = vectors[:, keep] / np.sqrt(values[keep])
    P = k.astype(np.float64) @ root
    squares, V = np.linalg.eigh(P.T @ P)
    keep = squares > squares[-1] * _RANK_SHARE
    T = root @ (V[:, keep] / np.sqrt(squares[keep]))
    return np.ascontiguousarray(k @ T.astype(np.float32)), squares[keep].astype(np.float32), T


class _Places:
    """Labels grouped by the item of one side: `order` lists them, `start` [n + 1] says where a group begins,
    `other` is the item of the other side of each."""

    def __init__(self, own: Int64, other: Int64, n: int) -> None:
        self.order = np.argsort(own, kind="stable")
        self.start = np.concatenate([[0], np.bincount(own, minlength=n).cumsum()]).astype(np.int64)
        self.other = other[self.order]

    def sums(self, v: Float32, x: Float32) -> Float32:
        """For every item the sum of `v_k x[other of k]` over its labels, [n, d]."""
        out = np.zeros((len(self.start) - 1, x.shape[1]), np.float32)
        _add_sums(self.start, self.other, v[self.order], x, out)
        return out


@numba.njit(cache=True, nogil=True)
def _add_sums(start: Int64, other: Int64, v: Float32, x: Float32, out: Float32) -> None:
    for i in range(len(out)):
        for k in range(start[i], start[i + 1]):
            row = x[other[k]]
            for d in range(x.shape[1]):
                out[i, d] += v[k] * row[d]


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"}, error_model="numpy")
def _add_dots(A: Float32, B: Float32, i: Int64, j: Int64, out: Float32) -> None:
    """Adds `<A[i_k], B[j_k]>` to out [k]."""
    d = A.shape[1]
    for k in range(len(i)):
        a, b = A[i[k]], B[j[k]]
        total = np.float32(0)
        for x in range(d):
            total += a[x] * b[x]
        out[k] += total
