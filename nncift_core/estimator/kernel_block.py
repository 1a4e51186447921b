"""Block form of the kernel estimator: labels are a full product of rows and columns.

With `K_r = Q_r diag(l_r) Q_r^T` and K_c alike, the covariance `K_r (x) K_c + s^2 I` of the whole block is
diagonal in the basis of the eigenvectors, with `L = l_r l_c^T + s^2`; the linear mean on p pair features
adds `F diag(t) F^T`, of rank p. Likelihood, its slopes and the solve follow from two eigen-decompositions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.contract import Float32, Float64
from nncift_core.estimator.kernel_search import FLOOR, SCALE_LABELS, Hyper, scale_of
from nncift_core.estimator.kernel_sides import Side


@dataclass(frozen=True, eq=False)
class Rotated:
    """Labels and pair features of a block in the basis of the eigenvectors, and what follows of them.

    Qr, lr, Qc, lc: eigenvectors and eigenvalues; L [R, C]; F [p, R, C] rotated pair features; M: Cholesky
    factor of `diag(1/t) + F^T L^-1 F`; beta [p]; alpha [R, C]: `Sigma^-1 y`, rotated;
    quadratic: `y^T Sigma^-1 y`; logdet: of Sigma; explained [p]: `diag(F^T Sigma^-1 F)`.
    """

    Qr: Float64
    lr: Float64
    Qc: Float64
    lc: Float64
    L: Float64
    F: Float64
    M: Float64
    beta: Float64
    alpha: Float64
    quadratic: float
    logdet: float
    explained: Float64

    @classmethod
    def of(cls, K_r: Float64, K_c: Float64, labels: Float64, noise: float, widths: Float64) -> Self:
        """labels [1 + p, R, C]: standardised labels, then pair features."""
        lr, Qr = np.linalg.eigh(K_r)
        lc, Qc = np.linalg.eigh(K_c)
        lr, lc = np.maximum(lr, 0), np.maximum(lc, 0)
        L = lr[:, None] * lc + noise
        rotated = Qr.T @ labels @ Qc
        flat = rotated.reshape(len(labels), -1)
        gram = (flat / L.ravel()) @ flat.T
        M = np.linalg.cholesky(np.diag(1 / widths) + gram[1:, 1:])
        beta = _solve(M, gram[1:, 0])
        alpha = (rotated[0] - np.tensordot(beta, rotated[1:], axes=1)) / L
        explained = np.diag(gram[1:, 1:] - gram[1:, 1:] @ _solve(M, gram[1:, 1:]))
        logdet = np.log(L).sum() + 2 * np.log(np.diag(M)).sum() + np.log(widths).sum()
        quadratic = max(float(gram[0, 0] - gram[1:, 0] @ beta), 0.0)
        return cls(Qr, lr, Qc, lc, L, rotated[1:], M, beta, alpha, quadratic, float(logdet), explained)

    def alpha_of(self, beta: Float64) -> Float64:
        """`(y - F beta)` through `L^-1`, rotated, for other slopes than `self.beta`, [R, C]."""
        out: Float64 = self.alpha + np.tensordot(self.beta - beta, self.F, axes=1) / self.L
        return out


class BlockLikelihood:
    """Negative log marginal likelihood of a block and its slopes, as a function of the hyperparameters.

    labels [1 + p, R, C]; row_distances [groups, R, R], column_distances [groups, C, C].
    """

    def __init__(self, labels: Float64, row_distances: Float64, column_distances: Float64) -> None:
        self.labels = labels
        self.row_distances, self.column_distances = row_distances, column_distances
        self.same_row, self.same_column = (np.eye(n) for n in labels.shape[1:])

    def __call__(self, hyper: Hyper) -> tuple[float, Float64]:
        """(value, slopes by the logarithms in the order of `Hyper.of`)."""
        K_r, E_r = hyper.rows.kernel(self.row_distances, self.same_row)
        K_c, E_c = hyper.columns.kernel(self.column_distances, self.same_column)
        at = Rotated.of(K_r, K_c, self.labels, hyper.noise, hyper.widths)
        n = at.L.size
        value = likelihood(at.quadratic, at.logdet, n)
        share = 1 / scale_of(at.quadratic, n)
        # d logdet - share * d quadratic as sums of squares: of the labels' alpha, of the mean in Sigma^-1.
        part = np.linalg.solve(at.M, (at.F / at.L).reshape(len(at.F), n)).reshape(at.F.shape)
        X = np.concatenate([math.sqrt(share) * at.alpha[None], part])
        inverse = 1 / at.L
        G_r = np.diag(inverse @ at.lc) - np.einsum("krc,c,ksc->rs", X, at.lc, X, optimize=True)
        G_c = np.diag(at.lr @ inverse) - np.einsum("krc,r,krd->cd", X, at.lr, X, optimize=True)
        by_noise = inverse.sum() - np.square(X).sum()
        by_width = hyper.widths * at.explained - share * np.square(at.beta) / hyper.widths
        slopes = [
            hyper.rows.slopes(at.Qr @ G_r @ at.Qr.T, self.row_distances, E_r, self.same_row),
            hyper.columns.slopes(at.Qc @ G_c @ at.Qc.T, self.column_distances, E_c, self.same_column),
            np.array([(hyper.noise - FLOOR) * by_noise]),
            by_width,
        ]
        return value, 0.5 * np.concatenate(slopes)


def likelihood(quadratic: float, logdet: float, n: int) -> float:
    """Negative log marginal likelihood of n labels, their common scale integrated out, less a constant."""
    return 0.5 * logdet + (n + SCALE_LABELS) / 2 * math.log(scale_of(quadratic, n))


@dataclass(frozen=True, eq=False)
class BlockVariance:
    """Variance of the prediction's error, relative to the labels' common scale.

    With `p = Q_r^T k_r`, `q = Q_c^T k_c`, `r = f - sum p (F / L) q`:
    `s^2 + k_r(i, i) k_c(j, j) - (p^2)^T (1 / L) (q^2) + r^T M^-1 r`.
    """

    Qr: Float32
    Qc: Float32
    inverse: Float32
    F: Float32
    M: Float64
    noise: float

    @classmethod
    def of(cls, at: Rotated, noise: float) -> Self:
        """From the solve of the whole block."""
        # One memory order, so that a reloaded state multiplies in the same order.
        Qr, Qc, inverse, F = (x.astype(np.float32, order="C") for x in (at.Qr, at.Qc, 1 / at.L, at.F / at.L))
        return cls(Qr, Qc, inverse, F, at.M, noise)

    def variance(self, k_r: Float64, k_c: Float64, prior: float, f: Float64) -> Float64:
        """Of k pairs: k_r [k, R], k_c [k, C] kernels with the labelled items, f [p, k] pair features."""
        p, q = k_r @ self.Qr, k_c @ self.Qc
        known = np.einsum("kr,kr->k", np.square(p), np.square(q) @ self.inverse.T)
        r = f - np.stack([np.einsum("kr,kr->k", p, q @ F.T) for F in self.F]) if len(f) else f
        mean = np.square(np.linalg.solve(self.M, r)).sum(axis=0)
        out: Float64 = self.noise + np.maximum(prior - known, 0) + mean
        return out

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON-ready settings."""
        names = ("Qr", "Qc", "inverse", "F", "M")
        return {f"block.{name}": getattr(self, name) for name in names}, {"noise": self.noise}

    @classmethod
    def from_state(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        """As `state` left it."""
        Qr, Qc, inverse, F, M = (arrays[f"block.{name}"] for name in ("Qr", "Qc", "inverse", "F", "M"))
        return cls(Qr, Qc, inverse, F, M, float(settings["noise"]))


def solve_block(rows: Side, columns: Side, labels: Float64, noise: float, widths: Float64) -> Rotated:
    """The solve of a whole block: labels [1 + p, R, C] in the order of the sides' landmarks."""
    K_r = rows.own_kernel() + rows.d * np.eye(len(rows.x))
    K_c = columns.own_kernel() + columns.d * np.eye(len(columns.x))
    return Rotated.of(K_r, K_c, labels, noise, widths)


def _solve(cholesky: Float64, b: Float64) -> Float64:
    out: Float64 = np.linalg.solve(cholesky.T, np.linalg.solve(cholesky, b))
    return out
