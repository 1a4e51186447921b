"""Warm starts: a fit on more labels that begins at an earlier fit on some of them.

Standardised coordinates are learned from the labelled rows, so that more labels turn and stretch them. The
earlier model is therefore said again in the new coordinates: over the labelled rows
`f_old ~ f_new T + t` by least squares, which is exact within the span of the new axes.

Rows that the earlier fit had labels of cannot say when to stop: it has seen them. Only labels of rows that
are new to it are held out, and without enough of those a fit starts cold and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.contract import Estimator, Float64

Bool = npt.NDArray[np.bool_]

# Fewer rows than that, half of them held out, tell nothing of when to stop.
LEAST_NEW_ROWS = 10
# Directions that vary less than this share of the widest say nothing of the old coordinates.
_SMALLEST = 1e-3


@runtime_checkable
class WarmStarting(Protocol):
    """The optional part of the estimators' contract: a fit may begin at an earlier one."""

    def warm(self, previous: Estimator) -> Self:
        """Begin the next `fit` at `previous`, a fitted estimator, which stays as it is; returns self.

        A start that does not fit (another class or size, other features, too little that is new to it) is
        left aside. `describe()["warm_start"]` says afterwards "yes", or "no: " and why not.
        """
        ...


class Unfit(Exception):
    """Why an earlier fit cannot be a start; `warm_start` tells it."""


@dataclass(frozen=True, eq=False)
class Moved:
    """Old coordinates of one side from new ones, `f_old = f_new T + t`: T [new, old], t [old]."""

    T: Float64
    t: Float64

    @classmethod
    def of(cls, new: Float64, old: Float64) -> Self:
        """From both coordinates of the same items, new [n, r] and old [n, s]."""
        T, t = np.zeros((new.shape[1], old.shape[1])), old.mean(axis=0)
        if new.size and old.size:
            centre = new.mean(axis=0)
            T = np.linalg.lstsq(new - centre, old - t, rcond=_SMALLEST)[0]
            t = t - centre @ T
        return cls(T, t)

    def of_part(self, centre: Float64) -> Moved:
        """The same from new coordinates less `centre` [new]."""
        return Moved(self.T, self.t + centre @ self.T)


@dataclass(frozen=True, eq=False)
class Start:
    """An earlier fit of a model of the sides, for new labels.

    weights: its arrays; facts: what it says of itself; rows, columns: its coordinates from the new ones;
    ratio: its spread of the labels by the new one; new_rows [L_r]: which labelled rows it had no label of.
    """

    weights: dict[str, npt.NDArray[Any]]
    facts: dict[str, Any]
    rows: Moved
    columns: Moved
    ratio: float
    new_rows: Bool

    def check_new_rows(self) -> None:
        """Raises Unfit where too few rows are new to hold some of them out."""
        new = int(self.new_rows.sum())
        if new < LEAST_NEW_ROWS:
            raise Unfit(f"{new} labelled rows are new, {LEAST_NEW_ROWS} would tell when to stop")
