"""Prediction of the kernel estimator: two thin matrix products per tile, and the linear mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.contract import Features, Float32, Float64, Int64
from nncift_core.estimator.kernel_sides import Side
from nncift_core.estimator.pair_features import Weighted

_ROWS = 4096
_PAIRS = 16384


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear mean on standardised pair features: `sum_p beta_p (f_p - mean_p) / sd_p`.

    names [p]; mean, sd, beta [p] float64, beta in units of the labels' scale.
    """

    names: tuple[str, ...]
    mean: Float64
    sd: Float64
    beta: Float64

    def standardised(self, features: Features, i: Int64, j: Int64) -> Float64:
        """The pair features of row i[k] with column j[k], [p, k]."""
        values = features.pair_values(self.names, i, j).astype(np.float64).T
        out: Float64 = (values - self.mean[:, None]) / self.sd[:, None]
        return out

    def weighted(self, features: Features, shift: float) -> Weighted:
        """The mean of every pair, plus `shift`."""
        slopes = self.beta / self.sd
        constant = shift - float(slopes @ self.mean)
        return Weighted.of(features, zip(self.names, slopes.tolist(), strict=True), constant)

    def add_pairs(self, out: Float32, features: Features, i: Int64, j: Int64) -> None:
        """Adds the mean of the pairs to `out` [k]."""
        for name, mean, slope in zip(self.names, self.mean, self.beta / self.sd, strict=True):
            out += np.float32(slope) * features.pairs[name].at(i, j)
            out -= np.float32(slope * mean)


@dataclass(frozen=True, eq=False)
class Thin:
    """`k_r W k_c^T`, and for items that the fit has labels of what is their own, [R, C].

    k_r [R, m_r], k_c [C, m_c]: kernels with the landmarks; W [m_r, m_c]; row_part [known rows, m_c] and
    column_part [m_r, known columns]: weights of the own effects of labelled rows and columns.
    """

    rows: Side
    columns: Side
    W: Float32
    row_part: Float32
    column_part: Float32

    @classmethod
    def of(cls, rows: Side, columns: Side, W: Float64) -> Self:
        """When the landmarks are the labelled items, in the order of their ids."""
        w = W.astype(np.float32, order="C")
        return cls(rows, columns, w, np.float32(rows.d) * w, np.float32(columns.d) * w)

    def tile(self, features: Features, mean: Weighted) -> Float32:
        """Of every row with every column, plus the linear mean, whose vectors join the same product."""
        R, C = features.shape
        k_c = self.columns.against(features.columns, np.arange(C))
        columns, of_columns = self.columns.known(features.column_ids)
        few_rows = len(self.W) <= len(self.W.T)
        # [inner, C]: what the rows' side is multiplied by, the mean's vectors last.
        inner = len(self.W) if few_rows else len(self.W.T)
        right = np.empty((inner + mean.right.shape[1], C), np.float32)
        right[inner:] = mean.right.T
        right[:inner] = self.W @ k_c.T if few_rows else k_c.T
        if few_rows:
            right[:inner, columns] += self.column_part[:, of_columns]
        out = np.empty((R, C), np.float32)
        left = np.empty((min(R, _ROWS), len(right)), np.float32)
        for first in range(0, R, _ROWS):
            at = np.arange(first, min(first + _ROWS, R))
            k_r = self.rows.against(features.rows, at)
            rows, of_rows = self.rows.known(features.row_ids[at])
            here, a = out[first : first + _ROWS], left[: len(at)]
            a[:, inner:] = mean.left[at]
            if few_rows:
                a[:, :inner] = k_r
            else:
                np.matmul(k_r, self.W, out=a[:, :inner])
                a[rows, :inner] += self.row_part[of_rows]
            np.matmul(a, right, out=here)
            if few_rows and len(rows):
                here[rows] += self.row_part[of_rows] @ k_c.T
            if not few_rows and len(columns):
                here[:, columns] += k_r @ self.column_part[:, of_columns]
        mean.add_rest(out)
        return out

    def pairs(self, features: Features, i: Int64, j: Int64) -> Float32:
        """Of row i[k] with column j[k]."""
        out = np.empty(len(i), np.float32)
        order = np.argsort(i, kind="stable")
        for first in range(0, len(i), _PAIRS):
            here = order[first : first + _PAIRS]
            rows, r = np.unique(i[here], return_inverse=True)
            columns, c = np.unique(j[here], return_inverse=True)
            k_r = self.rows.against(features.rows, rows)
            k_c = self.columns.against(features.columns, columns)
            H = k_r @ self.W
            known, place = self.rows.known(features.row_ids[rows])
            H[known] += self.row_part[place]
            G = np.zeros((len(self.W), len(columns)), np.float32)
            known, place = self.columns.known(features.column_ids[columns])
            G[:, known] = self.column_part[:, place]
            out[here] = np.einsum("km,km->k", H[r], k_c[c]) + np.einsum("km,mk->k", k_r[r], G[:, c])
        return out

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON-ready settings."""
        rows, of_rows = self.rows.state("rows")
        columns, of_columns = self.columns.state("columns")
        own = {"W": self.W, "row_part": self.row_part, "column_part": self.column_part}
        return rows | columns | own, of_rows | of_columns

    @classmethod
    def from_state(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        """As `state` left it; raises KeyError for a state of another kind."""
        rows, columns = (Side.from_state(name, arrays, settings) for name in ("rows", "columns"))
        return cls(rows, columns, arrays["W"], arrays["row_part"], arrays["column_part"])
