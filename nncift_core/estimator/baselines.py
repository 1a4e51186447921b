"""Cheap predictors fitted on the estimator's own labels: what a learned estimator has to beat.

One interface: `fit(row_index, column_index, values)` on labels [k], then
`predict_pairs(row_index, column_index)` [k] -> raw-scale float64 [k]. Indices are any integers that name
a row or a column the same way in both calls; those that read embeddings or texts take them as positions
in their tables.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from nncift_core.bm25 import Okapi

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


class Texts(Protocol):
    """What baselines read of rows or columns: n prompts and n responses, as `influence.contract.Rows`."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompts of the n examples."""
        ...

    @property
    def responses(self) -> tuple[str, ...]:
        """Responses of the n examples."""
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


class Calibrated:
    """A score of pairs, brought to the scale of the labels by least squares: `intercept + slope * score`.

    Ranks as the score does, or in reverse when the labels give a negative slope: the strongest use of the
    score that the labels support.
    """

    def __init__(self, name: str, score: Callable[[Int64, Int64], npt.NDArray[Any]]) -> None:
        """score: row indices [k] and column indices [k] -> finite scores [k]; name: for reports."""
        self.name, self.score = name, score
        self.slope = self.intercept = 0.0

    def fit(self, row_index: Int64, column_index: Int64, values: npt.NDArray[Any]) -> Self:
        """Least squares of the labels on the score; slope 0 when the score does not vary."""
        z = _checked(row_index, column_index, values)
        x = np.asarray(self.score(row_index, column_index), np.float64)
        centred = x - x.mean()
        variance = float(centred @ centred)
        self.slope = float(centred @ z) / variance if x.min() < x.max() else 0.0
        self.intercept = float(z.mean() - self.slope * x.mean())
        return self

    def predict_pairs(self, row_index: Int64, column_index: Int64) -> Float64:
        """intercept + slope * score for the pairs [k]."""
        return self.intercept + self.slope * np.asarray(self.score(row_index, column_index), np.float64)


class EmbeddingCosine(Calibrated):
    """Calibrated cosine of the two embeddings, cos(e_i, e_j); `cosine` gives it bare."""

    def __init__(self, row_embeddings: Float32, column_embeddings: Float32) -> None:
        """row_embeddings [R, d], column_embeddings [C, d]; need not be normalised."""
        super().__init__("embedding cosine", self.cosine)
        self.row_embeddings, self.column_embeddings = row_embeddings, column_embeddings

    def cosine(self, row_index: Int64, column_index: Int64) -> Float64:
        """cos(e_i, e_j) for the pairs [k]; 0 where an embedding is zero."""
        out = np.zeros(len(row_index))
        for k in range(0, len(out), _CHUNK):
            e = self.row_embeddings[row_index[k : k + _CHUNK]].astype(np.float64)
            f = self.column_embeddings[column_index[k : k + _CHUNK]].astype(np.float64)
            norms = np.linalg.norm(e, axis=1) * np.linalg.norm(f, axis=1)
            np.divide((e * f).sum(axis=1), norms, out=out[k : k + _CHUNK], where=norms > 0)
        return out


class LexicalMatch(Calibrated):
    """Calibrated BM25 score of a row's text for the words of a column's (equation: `nncift_core.bm25`).

    Statistics of words come from the rows given; the texts are read when scores are first asked for.
    """

    def __init__(self, rows: Texts, columns: Texts) -> None:
        """rows: R > 0 texts; columns: C texts."""
        super().__init__("bm25", lambda i, j: self._pairs(i, j))
        self._rows, self._columns = rows, columns

    @cached_property
    def _pairs(self) -> Callable[[Int64, Int64], Float32]:
        documents, queries = _joined(self._rows), _joined(self._columns)
        return Okapi.fit(documents).pair_scorer(documents, queries)


def response_length(rows: Texts) -> Calibrated:
    """Calibrated number of characters of the row's response, the same for every column."""
    lengths = np.fromiter((len(response) for response in rows.responses), np.float64, len(rows.responses))
    return Calibrated("length", lambda i, j: lengths[i])


def default_baselines(
    row_embeddings: Float32 | None,
    column_embeddings: Float32 | None,
    row_texts: Texts | None = None,
    column_texts: Texts | None = None,
) -> list[Baseline]:
    """The unfitted baselines that stand in every quality table; indices are positions in these tables.

    row_embeddings [R, d], column_embeddings [C, d]: "constant", "row + column means", "embedding cosine";
    row_texts (R) and column_texts (C) add "bm25", row_texts adds "length". For a pointwise function,
    column_embeddings None or [C, 0], a row has one value and nothing to match: "constant" and "length".
    """
    length = [] if row_texts is None else [response_length(row_texts)]
    if row_embeddings is None or column_embeddings is None or not column_embeddings.shape[1]:
        return [ConstantMean(), *length]
    cosine = EmbeddingCosine(row_embeddings, column_embeddings)
    if row_texts is None or column_texts is None:
        return [ConstantMean(), ShrunkMeans(), cosine, *length]
    return [ConstantMean(), ShrunkMeans(), cosine, LexicalMatch(row_texts, column_texts), *length]


def _joined(texts: Texts) -> list[str]:
    return [f"{p}\n{r}" for p, r in zip(texts.prompts, texts.responses, strict=True)]


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
