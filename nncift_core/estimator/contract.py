"""The contract of an estimator: fit on exact labels, predict a tile, say how sure, describe and keep itself.

Everything an estimator may read of rows and columns is one `Features` object. Learned estimators and cheap
baselines fill the same contract, so that a table can put them side by side and the gate can choose either.
A new estimator is one class and one line in `estimator/registry.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

# Groups of features of one row or column, [n, d] each.
EMBEDDING = "embedding"
RESPONSE = "response"
LENGTHS = "lengths"
HIDDEN = "hidden"
ERROR = "error"
LOSS = "loss"
SIDE_GROUPS = (EMBEDDING, RESPONSE, LENGTHS, HIDDEN, ERROR, LOSS)

# Features of a pair; the names are those of the baselines that use them alone.
COSINE = "embedding cosine"
RESPONSE_COSINE = "response cosine"
BM25 = "bm25"
LENGTH = "length"
PROXY = "gradient proxy"
PAIR_FEATURES = (COSINE, RESPONSE_COSINE, BM25, LENGTH, PROXY)

# Groups as the config file names them -> groups of a side and features of pairs that go with them.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "embedding": (EMBEDDING, COSINE),
    "response": (RESPONSE, RESPONSE_COSINE),
    "lengths": (LENGTHS, LENGTH),
    "hidden": (HIDDEN,),
    "error": (ERROR,),
    "loss": (LOSS,),
    "bm25": (BM25,),
    "proxy": (PROXY,),
}


class PairFeature(Protocol):
    """One number per pair of the rows and columns it stands over."""

    def tile(self) -> Float32:
        """Of every row with every column, [R, C]."""
        ...

    def at(self, i: Int64, j: Int64) -> Float32:
        """Of row i[k] with column j[k], [k]."""
        ...

    def take(self, rows: Int64, columns: Int64) -> PairFeature:
        """The same feature over the rows at `rows` [r] and the columns at `columns` [c]."""
        ...


@dataclass(frozen=True, eq=False)
class Features:
    """What estimators read of R rows and C columns of the matrix.

    row_ids [R], column_ids [C]: content ids, for estimators that know a row again; rows, columns: group ->
    [R, d] and [C, d], the same groups with the same d on both sides, or no column groups for a pointwise
    function, which has one column that is no text; pairs: name -> feature of a pair.
    """

    row_ids: Int64
    column_ids: Int64
    rows: Mapping[str, Float32] = field(default_factory=dict)
    columns: Mapping[str, Float32] = field(default_factory=dict)
    pairs: Mapping[str, PairFeature] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sides = (("rows", self.rows, self.row_ids), ("columns", self.columns, self.column_ids))
        for side, groups, ids in sides:
            for name, x in groups.items():
                if x.ndim != 2 or len(x) != len(ids):
                    raise ValueError(f"{name} of {side} is {list(x.shape)}, there are {len(ids)} {side}")
        if self.columns and {n: x.shape[1] for n, x in self.rows.items()} != {
            n: x.shape[1] for n, x in self.columns.items()
        }:
            raise ValueError(
                f"rows have {sorted(self.rows)}, columns {sorted(self.columns)}: sizes must agree"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(R, C)."""
        return len(self.row_ids), len(self.column_ids)

    @property
    def pointwise(self) -> bool:
        """Whether columns have no features of their own: values are of the row alone."""
        return not self.columns

    def take(self, rows: Int64 | None = None, columns: Int64 | None = None) -> Features:
        """The features of the rows at `rows` [r] and the columns at `columns` [c]; None: all, as they are."""
        if rows is None and columns is None:
            return self
        r = np.arange(len(self.row_ids)) if rows is None else rows
        c = np.arange(len(self.column_ids)) if columns is None else columns
        return Features(
            self.row_ids[r],
            self.column_ids[c],
            {name: x if rows is None else x[r] for name, x in self.rows.items()},
            {name: x if columns is None else x[c] for name, x in self.columns.items()},
            {name: p.take(r, c) for name, p in self.pairs.items()},
        )

    def only(self, names: Collection[str]) -> Features:
        """Without the groups and pair features that `names` lacks."""
        return Features(
            self.row_ids,
            self.column_ids,
            {name: x for name, x in self.rows.items() if name in names},
            {name: x for name, x in self.columns.items() if name in names},
            {name: p for name, p in self.pairs.items() if name in names},
        )

    def pair_tile(self, names: Collection[str]) -> Float32:
        """The named pair features of every pair, [p, R, C], in the order of `names`."""
        out = np.empty((len(names), *self.shape), np.float32)
        for k, name in enumerate(names):
            out[k] = self.pairs[name].tile()
        return out

    def pair_values(self, names: Collection[str], i: Int64, j: Int64) -> Float32:
        """The named pair features of row i[k] with column j[k], [k, p]."""
        out = np.empty((len(i), len(names)), np.float32)
        for k, name in enumerate(names):
            out[:, k] = self.pairs[name].at(i, j)
        return out


class Estimator(Protocol):
    """Predicts influence from features after a fit on exact labels.

    name: what reports and `estimator_quality.predictor` call it; learned: False for baselines that cost
    next to nothing. A fitted estimator depends on nothing but its `state`, so that a saved one predicts
    the same bits.
    """

    name: str
    learned: ClassVar[bool]

    def fit(self, features: Features, i: Int64, j: Int64, values: npt.NDArray[Any], *, seed: int) -> Self:
        """Fit on the labels: row i[k] has influence values[k] on column j[k] of `features`.

        Equal arguments give equal predictions. Raises ValueError for no labels, lengths that differ,
        values that are not finite, or a feature group that the estimator cannot do without.
        """
        ...

    def predict(self, features: Features) -> Float32:
        """Raw-scale influence of every row on every column, [R, C]. Memory: a few arrays [R, C]."""
        ...

    def predict_pairs(self, features: Features, i: Int64, j: Int64) -> Float32:
        """Raw-scale influence of row i[k] on column j[k], [k]; agrees with `predict` within rounding."""
        ...

    def std(self, features: Features, i: Int64, j: Int64) -> Float32 | None:
        """Standard deviation of the prediction's error at each pair [k]; None: not known pair by pair."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a person should know of the fit: numbers and words, JSON-ready."""
        ...

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON-ready settings from which `from_state` makes the same estimator again."""
        ...

    @classmethod
    def from_state(cls, arrays: dict[str, npt.NDArray[Any]], settings: dict[str, Any]) -> Self:
        """The fitted estimator of a `state`; raises KeyError or ValueError for one of another kind."""
        ...


def checked_labels(features: Features, i: Int64, j: Int64, values: npt.NDArray[Any]) -> Float64:
    """`values` [k] as float64. Raises ValueError as `Estimator.fit` says."""
    z = np.asarray(values, dtype=np.float64)
    if z.ndim != 1 or len(z) == 0 or i.shape != z.shape or j.shape != z.shape:
        shapes = [list(x.shape) for x in (i, j, z)]
        raise ValueError(f"i, j and values must be [k] with k > 0, got {shapes}")
    for name, index, size in (("i", i, features.shape[0]), ("j", j, features.shape[1])):
        if index.min() < 0 or index.max() >= size:
            raise ValueError(f"{name} runs from {index.min()} to {index.max()}, there are {size}")
    bad = int((~np.isfinite(z)).sum())
    if bad:
        raise ValueError(f"{bad} of {len(z)} label values are not finite")
    return z
