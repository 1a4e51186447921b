"""Features brought to one scale: the groups of one side as a few coordinates, pair features as a mean.

Both learn their numbers from the labelled rows, columns and pairs only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.contract import Features, Float32, Float64, Int64
from nncift_core.estimator.pair_features import Weighted

MAX_AXES = 256
_MAX_ROWS_FOR_AXES = 1024
_ROWS = 4096
_FLOOR = 0.1
# Labels at which a slope of the linear mean keeps about half of its least-squares value.
_MEAN_PENALTY = 5.0


@dataclass(frozen=True, eq=False)
class Side:
    """Standardised coordinates of rows (or of columns) from their feature groups.

    Every number of a group is centred and divided by its standard deviation over the labelled rows, and
    the group as a whole by the square root of what that leaves, so that each group has mean squared
    length 1 there and none drowns the others. The coordinates are then turned to the principal axes of
    the labelled rows, at most `MAX_AXES`: distances and inner products within their span stay as they are.

    names: the groups; mean [D], axes [D, r]: coordinates are `(x - mean) @ axes` for x [D], the groups one
    after the other. r = 0 without groups, and where the labelled rows do not differ.
    """

    names: tuple[str, ...]
    mean: Float32
    axes: Float32

    @classmethod
    def fit(cls, groups: Mapping[str, Float32], at: Int64, max_axes: int = MAX_AXES) -> Side:
        """From the labelled rows `at` of the groups; axes come from at most 1,024 of them, evenly spaced.

        Raises ValueError for features that are not finite.
        """
        if not groups:
            return cls((), np.empty(0, np.float32), np.empty((0, 0), np.float32))
        means, scales, parts = [], [], []
        some = at[np.linspace(0, len(at) - 1, min(len(at), _MAX_ROWS_FOR_AXES)).astype(np.int64)]
        for name, x in groups.items():
            mean, scale = _scaling(name, x, at)
            means.append(mean)
            scales.append(scale)
            parts.append((x[some] - mean) * scale)
        axes = _principal_axes(np.concatenate(parts, axis=1), max_axes)
        scaled = (np.concatenate(scales)[:, None] * axes).astype(np.float32)
        return cls(tuple(groups), np.concatenate(means).astype(np.float32), np.ascontiguousarray(scaled))

    def coordinates(self, groups: Mapping[str, Float32], at: Int64) -> Float32:
        """Coordinates [n, r] of the rows `at` [n]. Raises ValueError when a group is missing."""
        missing = [name for name in self.names if name not in groups]
        if missing:
            raise ValueError(f"fitted with the feature groups {list(self.names)}, {missing} are missing")
        out = np.zeros((len(at), self.axes.shape[1]), np.float32)
        for start in range(0, len(at), _ROWS) if out.size else ():
            here = slice(start, start + _ROWS)
            begin = 0
            for name in self.names:
                x = groups[name][at[here]].astype(np.float32, copy=False)
                part = slice(begin, begin + x.shape[1])
                out[here] += (x - self.mean[part]) @ self.axes[part]
                begin = part.stop
        return out

    def arrays(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """What `of_arrays` reads."""
        return {f"{prefix}.mean": self.mean, f"{prefix}.axes": self.axes}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str, names: list[str]) -> Side:
        """From `arrays` and the names of the groups."""
        return cls(tuple(names), arrays[f"{prefix}.mean"], arrays[f"{prefix}.axes"])


@dataclass(frozen=True, eq=False)
class LinearMean:
    """`intercept + sum_p slope_p (x_p - centre_p)` over the pair features x_p; without any, a constant.

    Ridge on standardised features with a penalty of 5 labels, so that few labels do not make steep slopes.
    """

    names: tuple[str, ...]
    intercept: float
    centres: Float64
    slopes: Float64

    @classmethod
    def fit(cls, features: Features, i: Int64, j: Int64, z: Float64) -> LinearMean:
        """On labels z [k]. Raises ValueError for pair features that are not finite."""
        names = tuple(features.pairs)
        X = features.pair_values(names, i, j).astype(np.float64)
        for name, x in zip(names, X.T, strict=True):
            if bad := int((~np.isfinite(x)).sum()):
                raise ValueError(f"{bad} of {len(x)} numbers of {name} are not finite")
        centres, inverse = X.mean(axis=0), _inverse(X.std(axis=0), np.abs(X).max(axis=0))
        U = (X - centres) * inverse
        gram = U.T @ U + _MEAN_PENALTY * np.eye(len(names))
        slopes = np.linalg.solve(gram, U.T @ (z - z.mean())) * inverse
        return cls(names, float(z.mean()), centres, slopes)

    def tile(self, features: Features) -> Float32:
        """[R, C]."""
        constant = self.intercept - float(self.slopes @ self.centres)
        return Weighted.of(features, zip(self.names, self.slopes.tolist(), strict=True), constant).tile()

    def at(self, features: Features, i: Int64, j: Int64) -> Float32:
        """[k]."""
        out = np.full(len(i), self.intercept, np.float32)
        for name, centre, slope in zip(self.names, self.centres, self.slopes, strict=True):
            out += np.float32(slope) * (features.pairs[name].at(i, j) - np.float32(centre))
        return out


def _scaling(name: str, x: Float32, at: Int64) -> tuple[Float64, Float64]:
    """Mean [d] and factor [d] of a group over the labelled rows; factor 0 for what does not vary there."""
    total, squares, largest = np.zeros(x.shape[1]), np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for start in range(0, len(at), _ROWS):
        part = x[at[start : start + _ROWS]].astype(np.float64)
        if bad := int((~np.isfinite(part)).any(axis=1).sum()):
            raise ValueError(f"{name}: {bad} labelled rows or columns have numbers that are not finite")
        total += part.sum(axis=0)
        largest = np.maximum(largest, np.abs(part).max(axis=0))
    mean = total / len(at)
    for start in range(0, len(at), _ROWS):
        squares += np.square(x[at[start : start + _ROWS]] - mean).sum(axis=0)
    deviation = np.sqrt(squares / len(at))
    inverse = _inverse(deviation, largest)
    if not inverse.any():
        return mean, inverse
    # A number that hardly varied among few labelled rows would be blown up for all others.
    floor = _FLOOR * float(np.median(deviation[inverse > 0]))
    inverse = np.where(inverse > 0, 1 / np.maximum(deviation, floor), 0.0)
    return mean, inverse / np.sqrt(np.square(deviation * inverse).sum())


def _inverse(deviation: Float64, largest: Float64) -> Float64:
    """1 / deviation, 0 where the deviation is no more than rounding of numbers as large as `largest`."""
    varies = deviation > 1e-6 * largest
    out: Float64 = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
    return out


def _principal_axes(X: Float64, max_axes: int) -> Float64:
    """Orthonormal axes [D, r] of the rows of X [n, D], by falling variance; those of no variance left out."""
    n, d = X.shape
    small = X @ X.T if n <= d else X.T @ X
    values, vectors = np.linalg.eigh(small)
    keep = np.flatnonzero(values > 1e-8 * max(float(values[-1]), 1e-300))[::-1][:max_axes]
    if n > d:
        out: Float64 = vectors[:, keep]
        return out
    out = X.T @ (vectors[:, keep] / np.sqrt(values[keep]))
    return out
