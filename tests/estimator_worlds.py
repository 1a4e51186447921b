"""Small made-up matrices with features, for tests of estimators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.contract import (
    BM25,
    COSINE,
    EMBEDDING,
    LENGTH,
    LENGTHS,
    PROXY,
    RESPONSE_COSINE,
    Features,
    Int64,
)
from nncift_core.estimator.pair_features import Cosine, OfRow, Table


@dataclass(frozen=True)
class World:
    """Features of R rows and C columns, and the true values [R, C]."""

    features: Features
    Z: npt.NDArray[np.float64]

    def block(self, rows: int, columns: int) -> tuple[Int64, Int64, npt.NDArray[np.float64]]:
        """i, j and values of the first rows x the first columns."""
        i, j = (x.ravel() for x in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
        return i, j, self.Z[i, j]

    def scattered(self, n: int, seed: int = 5) -> tuple[Int64, Int64, npt.NDArray[np.float64]]:
        """i, j and values of n random pairs."""
        flat = np.random.default_rng(seed).permutation(self.Z.size)[:n]
        i, j = np.unravel_index(flat, self.Z.shape)
        return i, j, self.Z[i, j]


def learnable(rows: int = 90, columns: int = 40, seed: int = 0, noise: float = 0.2) -> World:
    """Row term + column term + rank 2 + a pair feature, all linear in the features, and noise."""
    rng = np.random.default_rng(seed)
    R, C = (side(n, rng) for n in (rows, columns))
    proxy = rng.normal(size=(rows, columns)).astype(np.float32)
    e, f = R[EMBEDDING].astype(np.float64), C[EMBEDDING].astype(np.float64)
    signal = e[:, :2] @ f[:, :2].T + e[:, 3:4] + f[:, 4] + 0.7 * proxy
    pairs: dict[str, Any] = {
        COSINE: Cosine.of(R[EMBEDDING], C[EMBEDDING]),
        RESPONSE_COSINE: Cosine.of(R[EMBEDDING][:, :3], C[EMBEDDING][:, :3]),
        BM25: Table(rng.gamma(1, size=(rows, columns)).astype(np.float32)),
        LENGTH: OfRow(R[LENGTHS][:, 1].copy(), columns),
        PROXY: Table(proxy),
    }
    # Scale and offset far from 1 and 0, as real influence has them.
    Z = 3.0 + 0.01 * (signal + noise * rng.normal(size=signal.shape))
    return World(Features(10 + 3 * np.arange(rows), 7 + 2 * np.arange(columns), R, C, pairs), Z)


def pointwise(rows: int = 90, seed: int = 0) -> World:
    """One column without features; values linear in the rows' features."""
    rng = np.random.default_rng(seed)
    R = side(rows, rng)
    Z = -2.0 + 0.1 * (R[EMBEDDING][:, :1] + 0.2 * rng.normal(size=(rows, 1)))
    pairs = {LENGTH: OfRow(R[LENGTHS][:, 1].copy(), 1)}
    return World(Features(np.arange(rows), np.array([1]), R, {}, pairs), Z.astype(np.float64))


def side(n: int, rng: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
    """Two feature groups of n texts, of quite different scale."""
    groups = {EMBEDDING: rng.normal(size=(n, 6)), LENGTHS: 5 + 0.5 * rng.normal(size=(n, 2))}
    return {name: x.astype(np.float32) for name, x in groups.items()}


def r_squared(truth: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> float:
    """Share of the variance of `truth` that is predicted."""
    return float(1 - np.square(truth - predicted).mean() / truth.var())
