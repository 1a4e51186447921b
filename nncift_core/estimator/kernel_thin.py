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
# Kernel values of pairs that are in memory at a time, rows' and columns' together.
_PAIR_FLOATS = 1 << 23


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
    column_part [m_r, known columns]: weights of the own effects of labelled rows and columns. A kernel is its
    level and a departure from it. Weights of opposite signs all but cancel, so sums of weights, which levels
    are multiplied with, are kept in float64: of_rows [m_r] and of_columns [m_c] of W, own_rows [known rows]
    and own_columns [known columns] of the parts.
    """

    rows: Side
    columns: Side
    W: Float32
    row_part: Float32
    column_part: Float32
    of_rows: Float64
    of_columns: Float64
    own_rows: Float64
    own_columns: Float64

    @classmethod
    def of(
        cls,
        rows: Side,
        columns: Side,
        W: Float64,
        row_part: Float64 | None = None,
        column_part: Float64 | None = None,
    ) -> Self:
        """row_part, column_part: left out when the landmarks are the labelled items, in the order of ids."""
        parts = [W, rows.d * W if row_part is None else row_part]
        parts.append(columns.d * W if column_part is None else column_part)
        sums = [W.sum(axis=1), W.sum(axis=0), parts[1].sum(axis=1), parts[2].sum(axis=0)]
        small = [x.astype(np.float32, order="C") for x in parts]
        return cls(rows, columns, small[0], small[1], small[2], *sums)

    def tile(self, features: Features, mean: Weighted) -> Float32:
        """Of every row with every column, plus the linear mean, whose vectors join the same product."""
        R, C = features.shape
        f_c = self.columns.departure(features.columns, np.arange(C))
        columns, of_columns = self.columns.known(features.column_ids)
        level_r, level_c = self.rows.level, self.columns.level
        few_rows = len(self.W) <= len(self.W.T)
        # [inner + 1, C]: what the rows' side is multiplied by; then the mean's vectors.
        inner = len(self.W) if few_rows else len(self.W.T)
        right = np.zeros((inner + 1 + mean.right.shape[1], C), np.float32)
        right[inner + 1 :] = mean.right.T
        if few_rows:
            right[:inner] = self.W @ f_c.T
            right[:inner] += (level_c * self.of_rows)[:, None].astype(np.float32)
            right[:inner, columns] += self.column_part[:, of_columns]
            constant = level_r * (f_c @ self.of_columns + level_c * self.of_rows.sum())
            constant[columns] += level_r * self.own_columns[of_columns]
            right[inner] = constant
        else:
            right[:inner] = f_c.T
        out = np.empty((R, C), np.float32)
        left = np.ones((min(R, _ROWS), len(right)), np.float32)
        for first in range(0, R, _ROWS):
            at = np.arange(first, min(first + _ROWS, R))
            f_r = self.rows.departure(features.rows, at)
            rows, of_rows = self.rows.known(features.row_ids[at])
            here, a = out[first : first + _ROWS], left[: len(at)]
            a[:, inner + 1 :] = mean.left[at]
            if few_rows:
                a[:, :inner] = f_r
                np.matmul(a, right, out=here)
                if len(rows):
                    here[rows] += self.row_part[of_rows] @ f_c.T
                    here[rows] += (level_c * self.own_rows[of_rows])[:, None].astype(np.float32)
                continue
            H, constant = self._of_rows(f_r, rows, of_rows)
            a[:, :inner] = H
            np.matmul(a, right, out=here)
            here += constant[:, None].astype(np.float32)
            if len(columns):
                own = level_r * self.own_columns[of_columns]
                here[:, columns] += f_r @ self.column_part[:, of_columns] + own.astype(np.float32)
        mean.add_rest(out)
        return out

    def _of_rows(self, f_r: Float32, known: Int64, place: Int64) -> tuple[Float32, Float64]:
        """(H [n, m_c], constant [n]): the value of a row is `H f_c^T + constant`, less the columns' own
        effects. f_r [n, m_r]; known: rows that the fit has labels of, at `place` in row_part."""
        level_r, level_c = self.rows.level, self.columns.level
        H = f_r @ self.W
        H += (level_r * self.of_columns).astype(np.float32)
        H[known] += self.row_part[place]
        constant: Float64 = level_c * (f_r @ self.of_rows + level_r * self.of_rows.sum())
        constant[known] += level_c * self.own_rows[place]
        return H, constant

    def pairs(self, features: Features, i: Int64, j: Int64) -> Float32:
        """Of row i[k] with column j[k]."""
        out = np.empty(len(i), np.float32)
        order = np.argsort(i, kind="stable")
        step = max(1, _PAIR_FLOATS // sum(self.W.shape))
        for first in range(0, len(i), step):
            here = order[first : first + step]
            rows, r = np.unique(i[here], return_inverse=True)
            columns, c = np.unique(j[here], return_inverse=True)
            f_r = self.rows.departure(features.rows, rows)
            f_c = self.columns.departure(features.columns, columns)
            H, constant = self._of_rows(f_r, *self.rows.known(features.row_ids[rows]))
            known, place = self.columns.known(features.column_ids[columns])
            G, own = np.zeros((len(self.W), len(columns)), np.float32), np.zeros(len(columns))
            G[:, known] = self.column_part[:, place]
            own[known] = self.rows.level * self.own_columns[place]
            value = np.einsum("km,km->k", H[r], f_c[c]) + np.einsum("km,mk->k", f_r[r], G[:, c])
            out[here] = value + constant[r] + own[c]
        return out

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON-ready settings."""
        rows, of_rows = self.rows.state("rows")
        columns, of_columns = self.columns.state("columns")
        return rows | columns | {name: getattr(self, name) for name in _WEIGHTS}, of_rows | of_columns

    @classmethod
    def from_state(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        """As `state` left it; raises KeyError for a state of another kind."""
        rows, columns = (Side.from_state(name, arrays, settings) for name in ("rows", "columns"))
        return cls(rows, columns, *(arrays[name] for name in _WEIGHTS))


_WEIGHTS = ("W", "row_part", "column_part", "of_rows", "of_columns", "own_rows", "own_columns")
