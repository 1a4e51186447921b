"""What estimators of row features and column features share: everything but the model of the two sides.

    value(i, j) = linear mean of pair features + spread * model(f_i, g_j) + what i and j are known to keep

f and g: standardised coordinates (`scaling.Side`); the last term: shrunk means of what the rest leaves
over, for the rows and columns that had labels. A model of the sides is three functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.baselines import ShrunkMeans
from nncift_core.estimator.contract import Estimator, Features, Float32, Float64, Int64, checked_labels
from nncift_core.estimator.scaling import MAX_AXES, LinearMean, Side
from nncift_core.estimator.warm import Moved, Start, Unfit

Arrays = Mapping[str, npt.NDArray[Any]]

_CHUNK = 65_536


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of a model of the sides: label k is row i[k], column j[k] of the labelled ones.

    F [L_r, r], G [L_c, c]: coordinates of the labelled rows and columns, centred; i, j, z [k]: z has mean
    0 and variance 1.
    """

    F: Float64
    G: Float64
    i: Int64
    j: Int64
    z: Float64

    def take(self, at: Int64) -> Labels:
        """The labels `at` [k], with only the rows and columns that they touch, numbered anew."""
        rows, i = np.unique(self.i[at], return_inverse=True)
        columns, j = np.unique(self.j[at], return_inverse=True)
        return Labels(self.F[rows], self.G[columns], i, j, self.z[at])

    def centred_as(self, other: Labels) -> Labels:
        """With the means of `other` taken out: of its rows, of its columns, of its values.

        Labels held out must not be centred on themselves: over all of them together the mean is 0, which
        would tell what is held out.
        """
        f, g, z = other.F.mean(axis=0), other.G.mean(axis=0), other.z.mean()
        return Labels(self.F - f, self.G - g, self.i, self.j, self.z - z)


class SideEstimator(ABC):
    """An estimator of the form above; `_learn`, `_tile` and `_pairs` make it one."""

    name: ClassVar[str]
    learned: ClassVar[bool] = True
    needs_rows: ClassVar[bool] = True
    max_axes: ClassVar[int] = MAX_AXES

    def __init__(self) -> None:
        self._mean = LinearMean((), 0.0, np.empty(0), np.empty(0))
        self._rows = self._columns = Side((), np.empty(0, np.float32), np.empty((0, 0), np.float32))
        self._known = ShrunkMeans()
        self._spread = 0.0
        self._weights: dict[str, npt.NDArray[Any]] = {}
        self._facts: dict[str, Any] = {}

    @abstractmethod
    def _learn(self, labels: Labels, seed: int) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Weights of the model, and facts for `describe`."""

    @abstractmethod
    def _tile(self, weights: Arrays, F: Float32, G: Float32) -> Float32:
        """model(F_i, G_j), [len(F), len(G)]."""

    @abstractmethod
    def _pairs(self, weights: Arrays, F: Float32, G: Float32, i: Int64, j: Int64) -> Float32:
        """model(F[i[k]], G[j[k]]), [k]."""

    def fit(self, features: Features, i: Int64, j: Int64, values: npt.NDArray[Any], *, seed: int) -> Self:
        """Fit mean, model and what known rows and columns keep, each on what the one before leaves over.

        Raises ValueError as the contract says, and without any feature group of rows (`needs_rows`) or
        anything to read at all.
        """
        z = checked_labels(features, i, j, values)
        if self.needs_rows and not features.rows:
            raise ValueError(f"{self.name} needs a feature group of rows")
        if not features.rows and not features.pairs:
            raise ValueError(f"{self.name} needs a feature group or a pair feature")
        rows, row = np.unique(i, return_inverse=True)
        columns, column = np.unique(j, return_inverse=True)
        self._mean = LinearMean.fit(features, i, j, z)
        self._rows = Side.fit(features.rows, rows, self.max_axes)
        self._columns = Side.fit(features.columns, columns, self.max_axes)
        residual = z - self._mean.at(features, i, j)
        self._spread, self._weights, self._facts = 0.0, {}, {}
        # Less than the rounding of float32 is no variation.
        if residual.std() > 1e-6 * np.abs(z).max():
            shift, self._spread = float(residual.mean()), float(residual.std())
            F = self._rows.coordinates(features.rows, rows).astype(np.float64)
            G = self._columns.coordinates(features.columns, columns).astype(np.float64)
            labels = Labels(F, G, row, column, (residual - shift) / self._spread)
            self._weights, self._facts = self._learned(labels, seed, features, rows, columns)
        self._known = ShrunkMeans()
        left = z - self._side_pairs(features, i, j)
        self._known.fit(features, i, j, left)
        counts = {"labels": len(z), "labelled_rows": len(rows), "labelled_columns": len(columns)}
        self._facts = counts | self._facts
        return self

    def _learned(
        self, labels: Labels, seed: int, features: Features, rows: Int64, columns: Int64
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Weights and facts of the model of the labelled `rows` and `columns` of `features`."""
        return self._learn(labels, seed)

    def predict(self, features: Features) -> Float32:
        """[R, C]."""
        out = self._mean.tile(features)
        if self._weights:
            F = self._rows.coordinates(features.rows, np.arange(features.shape[0]))
            G = self._columns.coordinates(features.columns, np.arange(features.shape[1]))
            model = self._tile(self._weights, F, G)
            model *= np.float32(self._spread)
            out += model
        row, column = self._known_effects(features)
        out += row[:, None]
        out += column[None, :]
        return out

    def predict_pairs(self, features: Features, i: Int64, j: Int64) -> Float32:
        """[k]."""
        row, column = self._known_effects(features)
        return self._side_pairs(features, i, j) + row[i] + column[j]

    def std(self, features: Features, i: Int64, j: Int64) -> Float32 | None:
        """None: not known pair by pair."""
        return None

    def describe(self) -> dict[str, Any]:
        """Counts of labels, groups, coordinates, slopes of the pair features, facts of the model."""
        slopes = dict(zip(self._mean.names, self._mean.slopes.tolist(), strict=True))
        return {
            **self._facts,
            "groups": list(self._rows.names),
            "coordinates": [self._rows.axes.shape[1], self._columns.axes.shape[1]],
            "pair_slopes": slopes,
        }

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays of the mean, the sides, the model and the known effects; names, numbers and facts."""
        known, known_settings = self._known.state()
        arrays = {"mean.centres": self._mean.centres, "mean.slopes": self._mean.slopes}
        arrays |= self._rows.arrays("rows") | self._columns.arrays("columns")
        arrays |= {f"model.{k}": x for k, x in self._weights.items()}
        arrays |= {f"known.{k}": x for k, x in known.items()}
        return arrays, {
            "pairs": list(self._mean.names),
            "intercept": self._mean.intercept,
            "rows": list(self._rows.names),
            "columns": list(self._columns.names),
            "spread": self._spread,
            "known": known_settings,
            "facts": self._facts,
        }

    @classmethod
    def from_state(cls, arrays: dict[str, npt.NDArray[Any]], settings: dict[str, Any]) -> Self:
        """From a `state`."""
        made = cls()
        pairs, intercept = tuple(settings["pairs"]), float(settings["intercept"])
        made._mean = LinearMean(pairs, intercept, arrays["mean.centres"], arrays["mean.slopes"])
        made._rows = Side.of_arrays(arrays, "rows", settings["rows"])
        made._columns = Side.of_arrays(arrays, "columns", settings["columns"])
        made._weights = _below(arrays, "model.")
        made._known = ShrunkMeans.from_state(_below(arrays, "known."), settings["known"])
        made._spread, made._facts = float(settings["spread"]), dict(settings["facts"])
        return made

    def _side_pairs(self, features: Features, i: Int64, j: Int64) -> Float32:
        """Linear mean and model at pairs [k]."""
        out = self._mean.at(features, i, j)
        if not self._weights:
            return out
        for k in range(0, len(i), _CHUNK):
            here = slice(k, k + _CHUNK)
            rows, row = np.unique(i[here], return_inverse=True)
            columns, column = np.unique(j[here], return_inverse=True)
            F = self._rows.coordinates(features.rows, rows)
            G = self._columns.coordinates(features.columns, columns)
            out[here] += self._pairs(self._weights, F, G, row, column) * np.float32(self._spread)
        return out

    def _known_effects(self, features: Features) -> tuple[Float32, Float32]:
        """What rows [R] and columns [C] keep, the mean with the rows."""
        row, column = self._known.effects(features)
        return (self._known.mean + row).astype(np.float32), column.astype(np.float32)


class WarmSides(SideEstimator):
    """An estimator of the sides that can begin at an earlier fit (`warm.WarmStarting`)."""

    def __init__(self) -> None:
        super().__init__()
        self._previous: Estimator | None = None

    @abstractmethod
    def _continue(
        self, labels: Labels, seed: int, start: Start
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """As `_learn`, from `start`; raises Unfit for a start of another size, or with too little new."""

    def warm(self, previous: Estimator) -> Self:
        """As `WarmStarting.warm`."""
        self._previous = previous
        return self

    def fit(self, features: Features, i: Int64, j: Int64, values: npt.NDArray[Any], *, seed: int) -> Self:
        """As `SideEstimator.fit`; a start serves one fit."""
        try:
            return super().fit(features, i, j, values, seed=seed)
        finally:
            self._previous = None

    def _learned(
        self, labels: Labels, seed: int, features: Features, rows: Int64, columns: Int64
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        if self._previous is None:
            return self._learn(labels, seed)
        try:
            start = self._start(labels, features, rows, columns)
            weights, facts = self._continue(labels, seed, start)
        except Unfit as reason:
            weights, facts = self._learn(labels, seed)
            return weights, facts | {"warm_start": f"no: {reason}"}
        return weights, facts | {"warm_start": "yes"}

    def _start(self, labels: Labels, features: Features, rows: Int64, columns: Int64) -> Start:
        """The earlier fit in terms of the new labels; raises Unfit for one of another kind."""
        old: Any = self._previous
        if type(old) is not type(self):
            raise Unfit(f"the earlier fit is {old.name!r}, not {self.name!r}")
        if not old._weights:
            raise Unfit("the earlier labels left nothing to learn")
        for mine, its in ((self._rows, old._rows), (self._columns, old._columns)):
            if mine.names != its.names or mine.mean.shape != its.mean.shape:
                raise Unfit(f"the earlier fit read {list(its.names)} of other sizes or names")
        known = np.isin(features.row_ids[rows], old._known.rows)
        F, G = old._rows.coordinates(features.rows, rows), old._columns.coordinates(features.columns, columns)
        return Start(
            old._weights,
            old._facts,
            Moved.of(labels.F, F.astype(np.float64)),
            Moved.of(labels.G, G.astype(np.float64)),
            old._spread / self._spread,
            ~known,
        )


class InnerProduct(SideEstimator):
    """A model whose value of a pair is the inner product of two vectors, `a_i . b_j`."""

    @abstractmethod
    def _vectors(self, weights: Arrays, F: Float32, G: Float32) -> tuple[Float32, Float32]:
        """a [len(F), r] of rows and b [len(G), r] of columns."""

    def _tile(self, weights: Arrays, F: Float32, G: Float32) -> Float32:
        a, b = self._vectors(weights, F, G)
        out: Float32 = a @ b.T
        return out

    def _pairs(self, weights: Arrays, F: Float32, G: Float32, i: Int64, j: Int64) -> Float32:
        a, b = self._vectors(weights, F, G)
        out: Float32 = np.einsum("kr,kr->k", a[i], b[j])
        return out


def _below(arrays: Arrays, prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {k.removeprefix(prefix): x for k, x in arrays.items() if k.startswith(prefix)}
