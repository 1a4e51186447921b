"""Features of pairs (similarities of a row with a column) that cost a product per pair and need no label."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nncift_core.bm25 import Okapi
from nncift_core.estimator.contract import Features, Float32, Int64, PairFeature

_CHUNK = 8192


@dataclass(frozen=True, eq=False)
class Cosine:
    """cos(u_i, v_j) of one vector per row and one per column; 0 where a vector is zero.

    rows [R, d], columns [C, d], both L2-normalised: `of` does that.
    """

    rows: Float32
    columns: Float32

    @classmethod
    def of(cls, rows: Float32, columns: Float32) -> Cosine:
        """From vectors of any length."""
        return cls(_unit(rows), _unit(columns))

    def tile(self) -> Float32:
        """[R, C]."""
        out: Float32 = self.rows @ self.columns.T
        return out

    def at(self, i: Int64, j: Int64) -> Float32:
        """[k]."""
        out = np.empty(len(i), np.float32)
        for k in range(0, len(i), _CHUNK):
            here = slice(k, k + _CHUNK)
            out[here] = np.einsum("kd,kd->k", self.rows[i[here]], self.columns[j[here]])
        return out

    def take(self, rows: Int64, columns: Int64) -> Cosine:
        """Over some rows and columns."""
        return Cosine(self.rows[rows], self.columns[columns])


@dataclass(frozen=True, eq=False)
class OfRow:
    """A number of the row alone, the same with every column: rows [R], over `n` columns."""

    rows: Float32
    n: int

    def tile(self) -> Float32:
        """[R, n]."""
        return np.repeat(self.rows[:, None], self.n, axis=1)

    def at(self, i: Int64, j: Int64) -> Float32:
        """[k]."""
        return self.rows[i]

    def take(self, rows: Int64, columns: Int64) -> OfRow:
        """Over some rows and columns."""
        return OfRow(self.rows[rows], len(columns))


@dataclass(frozen=True, eq=False)
class Table:
    """A feature known for every pair: values [R, C]."""

    values: Float32

    def tile(self) -> Float32:
        """[R, C]."""
        return self.values

    def at(self, i: Int64, j: Int64) -> Float32:
        """[k]."""
        return self.values[i, j]

    def take(self, rows: Int64, columns: Int64) -> Table:
        """Over some rows and columns."""
        return Table(self.values[np.ix_(rows, columns)])


@dataclass(frozen=True, eq=False)
class Lexical:
    """BM25 score of a row's text for the words of a column's text (equation: `nncift_core.bm25`).

    scores: weights of words, fitted on the pool; rows: R texts; columns: C texts.
    """

    scores: Okapi
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    def tile(self) -> Float32:
        """[R, C]."""
        return self.scores.scores(list(self.rows), list(self.columns))

    def at(self, i: Int64, j: Int64) -> Float32:
        """[k]."""
        score = self.scores.pair_scorer(list(self.rows), list(self.columns))
        return score(i, j)

    def take(self, rows: Int64, columns: Int64) -> Lexical:
        """Over some rows and columns."""
        return Lexical(
            self.scores, tuple(self.rows[r] for r in rows), tuple(self.columns[c] for c in columns)
        )


@dataclass(frozen=True, eq=False)
class Weighted:
    """`constant + sum_p slope_p x_p` over pair features x_p as one matrix product, `left right^T`, [R, C].

    left [R, e], right [C, e]; rest: slopes and features that are no product of the sides' vectors.
    """

    left: Float32
    right: Float32
    rest: tuple[tuple[np.float32, PairFeature], ...]

    @classmethod
    def of(cls, features: Features, slopes: Iterable[tuple[str, float]], constant: float) -> Weighted:
        """slopes: (name of a pair feature, slope). Raises ValueError for one that is not there."""
        R, C = features.shape
        of_row, rest = np.full(R, constant, np.float32), []
        left, right = [of_row[:, None]], [np.ones((C, 1), np.float32)]
        for name, slope in slopes:
            if name not in features.pairs:
                raise ValueError(f"the fit read the pair feature {name!r}; it is not there")
            feature = features.pairs[name]
            if isinstance(feature, OfRow):
                of_row += np.float32(slope) * feature.rows
            elif isinstance(feature, Cosine):
                left.append(np.float32(slope) * feature.rows)
                right.append(feature.columns)
            else:
                rest.append((np.float32(slope), feature))
        return cls(np.concatenate(left, axis=1), np.concatenate(right, axis=1), tuple(rest))

    def add_rest(self, out: Float32) -> None:
        """Adds the features that are no product to `out` [R, C]."""
        for slope, feature in self.rest:
            out += slope * feature.tile()

    def tile(self) -> Float32:
        """[R, C]."""
        out: Float32 = self.left @ self.right.T
        self.add_rest(out)
        return out


def _unit(x: Float32) -> Float32:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    out: Float32 = np.divide(x, norms, out=np.zeros_like(x, dtype=np.float32), where=norms > 0)
    return out
