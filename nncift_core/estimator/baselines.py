"""Cheap predictors fitted on the estimator's own labels: what a learned estimator has to beat.

One interface: `fit(row_index, column_index, values)` on labels [k], then
`predict_pairs(row_index, column_index)` [k] -> raw-scale float64 [k]. Indices are any integers that name
a row or a column the same way in both calls; `EmbeddingCosine` reads them as positions in its tables.
"""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_CHUNK = 4096


class Baseline(Protocol):
    """A cheap predictor of influence; `name` is what reports call it."""

    name: str

    def fit(self, row_index: Int64, column_index: Int64, values: npt.NDArray[Any]) -> Self:
        """Fit on labels [k]; returns itself. Raises ValueError for no or non-finite labels."""
        ...

    def predict_pairs(self, row_index: Int64, column_index: Int64) -> Float64:
        """Predicted influence of the pairs [k]."""
        ...


class ConstantMean:
    """The mean of the labels for every pair."""

    name = "constant"

    def __init__(self) -> None:
        self.mean = 0.0

    def fit(self, row_index: Int64, column_index: Int64, values: npt.NDArray[Any]) -> Self:
        """mu = mean of `values`."""
        self.mean = float(_checked(row_index, column_index, values).mean())
        return self

    def predict_pairs(self, row_index: Int64, column_index: Int64) -> Float64:
        """mu for each of the [k] pairs."""
        return np.full(len(row_index), self.mean)


class ShrunkMeans:
    """Mean + row effect + column effect, each shrunk towards 0.

    Each effect is the mean residual of its labels times n / (n + lambda):
    `r_i = n_i / (n_i + lambda) * mean_j(z_ij - mu - c_j)` and
    `c_j = n_j / (n_j + lambda) * mean_i(z_ij - mu - r_i)`, solved together; that is the minimiser of
    `sum (z_ij - mu - r_i - c_j)^2 + lambda * (|r|^2 + |c|^2)` with mu the mean of the labels. A row or
    column without labels has effect 0.
    """

    name = "row + column means"

    def __init__(self, shrinkage: float = 5.0) -> None:
        """shrinkage: lambda > 0, the number of labels at which an effect keeps half of its mean."""
        if not shrinkage > 0:
            raise ValueError(f"shrinkage must be positive, got {shrinkage}")
        self.shrinkage = shrinkage
        self.mean = 0.0
        self.rows = self.columns = np.empty(0, dtype=np.int64)
        self.row_effects = self.column_effects = np.empty(0)

    def fit(self, row_index: Int64, column_index: Int64, values: npt.NDArray[Any]) -> Self:
        """Alternate the two equations until no effect moves by 1e-9 of the spread, at most 1,000 times."""
        z = _checked(row_index, column_index, values)
        self.mean = float(z.mean())
        residual = z - self.mean
        self.rows, i = np.unique(row_index, return_inverse=True)
        self.columns, j = np.unique(column_index, return_inverse=True)
        row_weight, column_weight = np.bincount(i) + self.shrinkage, np.bincount(j) + self.shrinkage
        r, c = np.zeros(len(self.rows)), np.zeros(len(self.columns))
        for _ in range(1000):
            new_c = np.bincount(j, residual - r[i]) / column_weight
            new_r = np.bincount(i, residual - new_c[j]) / row_weight
            moved = max(np.abs(new_r - r).max(), np.abs(new_c - c).max())
            r, c = new_r, new_c
            if moved <= 1e-9 * residual.std():
                break
        self.row_effects, self.column_effects = r, c
        return self

    def predict_pairs(self, row_index: Int64, column_index: Int64) -> Float64:
        """mu + r_i + c_j for the pairs [k]."""
        row = _effect(self.rows, self.row_effects, row_index)
        column = _effect(self.columns, self.column_effects, column_index)
        return self.mean + row + column


class EmbeddingCosine:
    """Cosine of the two embeddings, brought to the scale of the labels by least squares.

    `intercept + slope * cos(e_i, e_j)`. Ranks as the cosine does, or in reverse when the labels give a
    negative slope: the strongest use of the cosine that the labels support. `cosine` gives it bare.
    """

    name = "embedding cosine"

    def __init__(self, row_embeddings: Float32, column_embeddings: Float32) -> None:
        """row_embeddings [R, d], column_embeddings [C, d]; need not be normalised."""
        self.row_embeddings, self.column_embeddings = row_embeddings, column_embeddings
        self.slope = self.intercept = 0.0

    def fit(self, row_index: Int64, column_index: Int64, values: npt.NDArray[Any]) -> Self:
        """Least squares of the labels on the cosine; slope 0 when the cosine does not vary."""
        z = _checked(row_index, column_index, values)
        x = self.cosine(row_index, column_index)
        centred = x - x.mean()
        variance = float(centred @ centred)
        self.slope = float(centred @ z) / variance if x.min() < x.max() else 0.0
        self.intercept = float(z.mean() - self.slope * x.mean())
        return self

    def predict_pairs(self, row_index: Int64, column_index: Int64) -> Float64:
        """intercept + slope * cosine for the pairs [k]."""
        return self.intercept + self.slope * self.cosine(row_index, column_index)

    def cosine(self, row_index: Int64, column_index: Int64) -> Float64:
        """cos(e_i, e_j) for the pairs [k]; 0 where an embedding is zero."""
        out = np.zeros(len(row_index))
        for k in range(0, len(out), _CHUNK):
            e = self.row_embeddings[row_index[k : k + _CHUNK]].astype(np.float64)
            f = self.column_embeddings[column_index[k : k + _CHUNK]].astype(np.float64)
            norms = np.linalg.norm(e, axis=1) * np.linalg.norm(f, axis=1)
            np.divide((e * f).sum(axis=1), norms, out=out[k : k + _CHUNK], where=norms > 0)
        return out


def default_baselines(row_embeddings: Float32, column_embeddings: Float32) -> list[Baseline]:
    """The unfitted baselines that stand in every quality table."""
    return [ConstantMean(), ShrunkMeans(), EmbeddingCosine(row_embeddings, column_embeddings)]


def _checked(row_index: Int64, column_index: Int64, values: npt.NDArray[Any]) -> Float64:
    z = np.asarray(values, dtype=np.float64)
    if z.ndim != 1 or len(z) == 0 or row_index.shape != z.shape or column_index.shape != z.shape:
        shapes = [list(x.shape) for x in (row_index, column_index, z)]
        raise ValueError(f"row_index, column_index and values must be [k] with k > 0, got {shapes}")
    bad = int((~np.isfinite(z)).sum())
    if bad:
        raise ValueError(f"{bad} of {len(z)} label values are not finite")
    return z


def _effect(known: Int64, effects: Float64, index: Int64) -> Float64:
    """effects of `index` [k], 0 where it is not among the sorted `known`."""
    if len(known) == 0:
        return np.zeros(len(index))
    at = np.minimum(np.searchsorted(known, index), len(known) - 1)
    return np.where(known[at] == index, effects[at], 0.0)
