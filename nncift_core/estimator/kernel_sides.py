"""One side (rows or columns) of the kernel estimator: distances of feature groups, kernel, its slopes.

`K = a + exp(-sum_g w_g D_g) + d same`, where D_g are squared distances of group g divided by their mean
over the labelled items of the side, and `same` is 1 where two items are one and the same. The bias `a`
lets the other side have an effect of its own, `d` is what features do not tell of a labelled item.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.contract import SIDE_GROUPS, Float32, Float64, Int64


@dataclass(frozen=True, eq=False)
class Scaled:
    """Feature groups of n items, centred and scaled so that squared distances average 1 per group.

    x: group -> [n, d_g] float32; centre: group -> [d_g]; scale: group -> root of the mean squared distance.
    """

    x: Mapping[str, Float32]
    centre: Mapping[str, Float32]
    scale: Mapping[str, float]
    n: int

    @classmethod
    def of(cls, groups: Mapping[str, Float32], at: Int64) -> Self:
        """Of the items at positions `at`. Raises ValueError for features that are not finite."""
        x, centre, scale = {}, {}, {}
        known = [name for name in SIDE_GROUPS if name in groups]
        for name in known + sorted(set(groups) - set(known)):
            here = groups[name][at].astype(np.float64)
            if not np.isfinite(here).all():
                raise ValueError(f"features of group {name!r} are not finite")
            mean = here.mean(axis=0)
            # Over pairs of different items: twice the variance. One item alone has only its norm for a scale.
            square = 2 * np.square(here - mean).sum() / max(len(at) - 1, 1)
            square = square or 2 * np.square(here).sum() / len(at) or 1.0
            scale[name] = float(np.sqrt(square))
            centre[name] = mean.astype(np.float32)
            x[name] = ((here - mean) / scale[name]).astype(np.float32)
        return cls(x, centre, scale, len(at))

    @property
    def names(self) -> tuple[str, ...]:
        """Groups in a fixed order."""
        return tuple(self.x)

    def distances(self, at: Int64) -> Float64:
        """Squared distances of each group among the items at `at` [k], [groups, k, k]."""
        out = np.empty((len(self.x), len(at), len(at)))
        for g, x in enumerate(self.x.values()):
            y = x[at].astype(np.float64)
            square = np.square(y).sum(axis=1)
            np.maximum(square[:, None] + square - 2 * (y @ y.T), 0, out=out[g])
        return out


@dataclass(frozen=True, eq=False)
class SideWeights:
    """Weights of one side: w [groups], bias a, own effect d."""

    w: Float64
    a: float
    d: float

    def kernel(self, distances: Float64, same: Float64) -> tuple[Float64, Float64]:
        """(K, its exponential part), [n, m] each, from distances [groups, n, m] and `same` [n, m]."""
        exponential = np.exp(-np.tensordot(self.w, distances, axes=1))
        return exponential + (self.a + self.d * same), exponential

    def slopes(self, G: Float64, distances: Float64, exponential: Float64, same: Float64) -> Float64:
        """Derivative of a function by (log w, log a, log d), given G = its derivative by K [n, n]."""
        weighted = (G * exponential).ravel()
        by_w = -self.w * (distances.reshape(len(self.w), weighted.size) @ weighted)
        return np.concatenate([by_w, [self.a * G.sum(), self.d * np.vdot(G, same)]])


@dataclass(frozen=True, eq=False)
class Side:
    """A fitted side: landmarks that new items are compared with, and the labelled items it knows by id.

    x [m, D]: features of the landmarks, centred and scaled by sqrt(w); factors, centre [D]: how to bring
    new items there; ids [k]: sorted content ids of the labelled items; names, sizes: groups and their d.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    x: Float32
    factors: Float32
    centre: Float32
    ids: Int64
    a: float
    d: float

    @classmethod
    def of(cls, scaled: Scaled, weights: SideWeights, landmarks: Int64, ids: Int64) -> Self:
        """With the items at `landmarks` [m] of `scaled` as landmarks."""
        names = scaled.names
        sizes = tuple(scaled.x[name].shape[1] for name in names)
        root = np.sqrt(weights.w)
        x = [scaled.x[name][landmarks] * root[g] for g, name in enumerate(names)]
        factors = [np.full(size, root[g] / scaled.scale[names[g]]) for g, size in enumerate(sizes)]
        return cls(
            names,
            sizes,
            np.concatenate([np.empty((len(landmarks), 0)), *x], axis=1).astype(np.float32),
            np.concatenate([np.empty(0), *factors]).astype(np.float32),
            np.concatenate([np.empty(0), *(scaled.centre[name] for name in names)]).astype(np.float32),
            ids,
            weights.a,
            weights.d,
        )

    def own_kernel(self) -> Float64:
        """Kernel among the landmarks, without the own effect, [m, m]."""
        x = self.x.astype(np.float64)
        square = np.square(x).sum(axis=1)
        distances = np.maximum(square[:, None] + square - 2 * (x @ x.T), 0)
        out: Float64 = np.exp(-distances) + self.a
        return out

    @property
    def level(self) -> float:
        """Kernel of two items that are alike, without the own effect: bias + 1."""
        return self.a + 1

    def departure(self, groups: Mapping[str, Float32], at: Int64) -> Float32:
        """`exp(-distance) - 1` of the items at `at` with the landmarks, [n, m]: the kernel without the own
        effect, less `level`. Near 0 where items are alike, and exact there, whatever the bias.

        Raises ValueError when a group of the fit is missing or has another size.
        """
        y = np.empty((len(at), len(self.centre)), np.float32)
        start = 0
        for name, size in zip(self.names, self.sizes, strict=True):
            if name not in groups or groups[name].shape[1] != size:
                raise ValueError(f"the fit read {size} features of group {name!r}; they are not there")
            y[:, start : start + size] = groups[name][at]
            start += size
        y -= self.centre
        y *= self.factors
        out: Float32 = y @ self.x.T
        out *= 2
        out -= np.einsum("nd,nd->n", y, y)[:, None]
        out -= np.einsum("md,md->m", self.x, self.x)
        np.minimum(out, 0, out=out)
        np.expm1(out, out=out)
        return out

    def against(self, groups: Mapping[str, Float32], at: Int64) -> Float32:
        """Kernel of the items at `at` with the landmarks, without the own effect, [n, m]; raises as
        `departure` does."""
        out = self.departure(groups, at)
        out += np.float32(self.level)
        return out

    def known(self, ids: Int64) -> tuple[Int64, Int64]:
        """(positions in `ids` that the fit has labels of, their positions in `self.ids`)."""
        place = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        here = np.flatnonzero(self.ids[place] == ids)
        return here, place[here]

    def state(self, prefix: str) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays and settings, names starting with `prefix`."""
        arrays = {name: getattr(self, name) for name in ("x", "factors", "centre", "ids")}
        settings = {"names": list(self.names), "sizes": list(self.sizes), "a": self.a, "d": self.d}
        return {f"{prefix}.{name}": x for name, x in arrays.items()}, {prefix: settings}

    @classmethod
    def from_state(cls, prefix: str, arrays: Mapping[str, npt.NDArray[Any]], settings: Any) -> Self:
        """The side of a `state`; raises KeyError for one of another kind."""
        own = settings[prefix]
        x, factors, centre, ids = (arrays[f"{prefix}.{name}"] for name in ("x", "factors", "centre", "ids"))
        names, sizes = tuple(own["names"]), tuple(own["sizes"])
        return cls(names, sizes, x, factors, centre, ids, own["a"], own["d"])
