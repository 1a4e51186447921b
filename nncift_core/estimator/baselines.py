"""Cheap estimators, fitted on the same labels as a learned one: what that one has to beat."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.contract import (
    BM25,
    COSINE,
    LENGTH,
    PROXY,
    Estimator,
    Features,
    Float32,
    Float64,
    Int64,
    checked_labels,
)
from nncift_core.hashing import hash_rank


class _Cheap:
    """What every baseline shares: it is not learned and knows no error pair by pair."""

    learned: ClassVar[bool] = False

    def std(self, features: Features, i: Int64, j: Int64) -> Float32 | None:
        """None: not known pair by pair."""
        return None


class ConstantMean(_Cheap):
    """The mean of the labels for every pair."""

    name = "constant"

    def __init__(self) -> None:
        self.mean = 0.0

    def fit(self, features: Features, i: Int64, j: Int64, values: npt.NDArray[Any], *, seed: int = 0) -> Self:
        """mu = mean of `values`."""
        self.mean = float(checked_labels(features, i, j, values).mean())
        return self

    def predict(self, features: Features) -> Float32:
        """mu, [R, C]."""
        return np.full(features.shape, self.mean, np.float32)

    def predict_pairs(self, features: Features, i: Int64, j: Int64) -> Float32:
        """mu, [k]."""
        return np.full(len(i), self.mean, np.float32)

    def describe(self) -> dict[str, Any]:
        """The mean."""
        return {"mean": self.mean}

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """No arrays; the mean."""
        return {}, {"mean": self.mean}

    @classmethod
    def from_state(cls, arrays: dict[str, npt.NDArray[Any]], settings: dict[str, Any]) -> Self:
        """From a `state`."""
        made = cls()
        made.mean = float(settings["mean"])
        return made


class ShrunkMeans(_Cheap):
    """Mean + row effect + column effect, each shrunk towards 0; rows and columns are known by content id.

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

    def fit(self, features: Features, i: Int64, j: Int64, values: npt.NDArray[Any], *, seed: int = 0) -> Self:
        """Alternate the two equations until no effect moves by 1e-9 of the spread, at most 1,000 times."""
        z = checked_labels(features, i, j, values)
        self.mean = float(z.mean())
        self.rows, row = np.unique(features.row_ids[i], return_inverse=True)
        self.columns, column = np.unique(features.column_ids[j], return_inverse=True)
        self.row_effects, self.column_effects = shrunk_effects(row, column, z - self.mean, self.shrinkage)
        return self

    def predict(self, features: Features) -> Float32:
        """mu + r_i + c_j, [R, C]."""
        row, column = self.effects(features)
        return ((self.mean + row)[:, None] + column[None, :]).astype(np.float32)

    def predict_pairs(self, features: Features, i: Int64, j: Int64) -> Float32:
        """mu + r_i + c_j, [k]."""
        row, column = self.effects(features)
        return ((self.mean + row)[i] + column[j]).astype(np.float32)

    def effects(self, features: Features) -> tuple[Float64, Float64]:
        """Effects of the rows [R] and of the columns [C]."""
        row = _effect(self.rows, self.row_effects, features.row_ids)
        return row, _effect(self.columns, self.column_effects, features.column_ids)

    def describe(self) -> dict[str, Any]:
        """Mean, shrinkage, how many rows and columns have effects, and their spread."""
        return {
            "mean": self.mean,
            "shrinkage": self.shrinkage,
            "rows": len(self.rows),
            "columns": len(self.columns),
            "row_spread": float(self.row_effects.std()) if len(self.rows) else 0.0,
            "column_spread": float(self.column_effects.std()) if len(self.columns) else 0.0,
        }

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Ids and effects of rows and columns; mean and shrinkage."""
        arrays = {
            "rows": self.rows,
            "columns": self.columns,
            "row_effects": self.row_effects,
            "column_effects": self.column_effects,
        }
        return arrays, {"mean": self.mean, "shrinkage": self.shrinkage}

    @classmethod
    def from_state(cls, arrays: dict[str, npt.NDArray[Any]], settings: dict[str, Any]) -> Self:
        """From a `state`."""
        made = cls(float(settings["shrinkage"]))
        made.mean = float(settings["mean"])
        made.rows, made.columns = arrays["rows"], arrays["columns"]
        made.row_effects, made.column_effects = arrays["row_effects"], arrays["column_effects"]
        return made


class Calibrated(_Cheap):
    """A pair feature brought to the scale of the labels by least squares: `intercept + slope * x_ij`.

    Ranks as the feature does, or in reverse when the labels give a negative slope: the strongest use of
    the feature that the labels support. Named after its feature.
    """

    def __init__(self, feature: str) -> None:
        """feature: name of a pair feature."""
        self.name = self.feature = feature
        self.slope = self.intercept = 0.0

    def fit(self, features: Features, i: Int64, j: Int64, values: npt.NDArray[Any], *, seed: int = 0) -> Self:
        """Least squares of the labels on the feature; slope 0 when the feature does not vary.

        Raises ValueError also when the feature is absent or not finite.
        """
        z = checked_labels(features, i, j, values)
        if self.feature not in features.pairs:
            raise ValueError(f"there is no pair feature {self.feature!r}, only {sorted(features.pairs)}")
        x = features.pairs[self.feature].at(i, j).astype(np.float64)
        if bad := int((~np.isfinite(x)).sum()):
            raise ValueError(f"{bad} of {len(x)} numbers of {self.feature} are not finite")
        centred = x - x.mean()
        variance = float(centred @ centred)
        self.slope = float(centred @ z) / variance if x.min() < x.max() and variance > 0 else 0.0
        self.intercept = float(z.mean() - self.slope * x.mean())
        return self

    def predict(self, features: Features) -> Float32:
        """intercept + slope * x_ij, [R, C]."""
        return self._to_raw(features.pairs[self.feature].tile())

    def predict_pairs(self, features: Features, i: Int64, j: Int64) -> Float32:
        """intercept + slope * x_ij, [k]."""
        return self._to_raw(features.pairs[self.feature].at(i, j))

    def _to_raw(self, x: Float32) -> Float32:
        out = np.multiply(x, np.float32(self.slope), dtype=np.float32)
        out += np.float32(self.intercept)
        return out

    def describe(self) -> dict[str, Any]:
        """Intercept and slope."""
        return {"intercept": self.intercept, "slope": self.slope}

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """No arrays; the feature's name, intercept and slope."""
        return {}, {"feature": self.feature, "intercept": self.intercept, "slope": self.slope}

    @classmethod
    def from_state(cls, arrays: dict[str, npt.NDArray[Any]], settings: dict[str, Any]) -> Self:
        """From a `state`."""
        made = cls(str(settings["feature"]))
        made.intercept, made.slope = float(settings["intercept"]), float(settings["slope"])
        return made


class Random(_Cheap):
    """A pseudo-random number per pair of content ids, with the mean and the spread of the labels.

    Uniform; a function of the two ids and the seed only, so that a pair has the same value in every tile.
    """

    name = "random"

    def __init__(self) -> None:
        self.mean = self.spread = 0.0
        self.seed = 0

    def fit(self, features: Features, i: Int64, j: Int64, values: npt.NDArray[Any], *, seed: int = 0) -> Self:
        """Mean and standard deviation of `values`."""
        z = checked_labels(features, i, j, values)
        self.mean, self.spread, self.seed = float(z.mean()), float(z.std()), seed
        return self

    def predict(self, features: Features) -> Float32:
        """[R, C]."""
        out = np.empty(features.shape, np.float32)
        for k, row in enumerate(features.row_ids):
            out[k] = self._draw(np.full(len(features.column_ids), row, np.int64), features.column_ids)
        return out

    def predict_pairs(self, features: Features, i: Int64, j: Int64) -> Float32:
        """[k]."""
        return self._draw(features.row_ids[i], features.column_ids[j])

    def _draw(self, rows: Int64, columns: Int64) -> Float32:
        """A uniform number of variance 1 for each pair of ids, brought to mean and spread."""
        uniform = hash_rank(rows, self.seed, "random estimator", columns) / 2.0**64
        return (self.mean + self.spread * 12**0.5 * (uniform - 0.5)).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """Mean, spread and seed."""
        return {"mean": self.mean, "spread": self.spread, "seed": self.seed}

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """No arrays; what `describe` says."""
        return {}, self.describe()

    @classmethod
    def from_state(cls, arrays: dict[str, npt.NDArray[Any]], settings: dict[str, Any]) -> Self:
        """From a `state`."""
        made = cls()
        made.mean, made.spread = float(settings["mean"]), float(settings["spread"])
        made.seed = int(settings["seed"])
        return made


def default_baselines(features: Features, *, random: bool = False) -> list[Estimator]:
    """The unfitted baselines that stand in every quality table, those possible on `features`.

    "constant", "row + column means" (not pointwise), "embedding cosine", "bm25", "length" and
    "gradient proxy" (where that pair feature is there); `random` adds "random".
    """
    found: list[Estimator] = [ConstantMean()]
    if not one_value_per_row(features):
        found.append(ShrunkMeans())
    found += [Calibrated(name) for name in (COSINE, BM25, LENGTH, PROXY) if name in features.pairs]
    return [*found, Random()] if random else found


def one_value_per_row(features: Features) -> bool:
    """Whether the function is pointwise: a single column without features of its own."""
    return features.pointwise and features.shape[1] == 1


def shrunk_effects(row: Int64, column: Int64, residual: Float64, shrinkage: float) -> tuple[Float64, Float64]:
    """Row effects and column effects of `ShrunkMeans` for residuals [k] of rows 0.. and columns 0.. ."""
    row_weight, column_weight = np.bincount(row) + shrinkage, np.bincount(column) + shrinkage
    r, c = np.zeros(len(row_weight)), np.zeros(len(column_weight))
    for _ in range(1000):
        new_c = np.bincount(column, residual - r[row]) / column_weight
        new_r = np.bincount(row, residual - new_c[column]) / row_weight
        moved = max(np.abs(new_r - r).max(), np.abs(new_c - c).max())
        r, c = new_r, new_c
        if moved <= 1e-9 * residual.std():
            break
    return r, c


def _effect(known: Int64, effects: Float64, ids: Int64) -> Float64:
    """effects of `ids` [k], 0 where one is not among the sorted `known`."""
    if len(known) == 0:
        return np.zeros(len(ids))
    at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[at] == ids, effects[at], 0.0)
