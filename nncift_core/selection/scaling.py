"""Raw influence, partly negative, read as similarity in [0, 1] for facility location.

Min-max scaling over the values at hand: s' = (s - min) / (max - min). It is a view for selection;
stored influence stays raw, and the minimum and maximum are kept so that the view can be rebuilt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.selection.result import Floating, as_floating, finite_range


@dataclass(frozen=True)
class NonNegative:
    """The record of a min-max scaling, in the units of the raw values."""

    minimum: float
    maximum: float

    @property
    def constant(self) -> bool:
        """Whether all raw values were equal: they become zeros, and no selection rule can tell them apart."""
        return self.minimum == self.maximum

    @classmethod
    def of(cls, *matrices: npt.ArrayLike) -> NonNegative:
        """The scaling over all values of several matrices [rows, columns] that must share one unit.

        Raises ValueError when there is none, or one is empty, not two-dimensional or not finite.
        """
        if not matrices:
            raise ValueError("needs at least one matrix")
        axes = ("row", "column")
        ranges = [finite_range(as_floating(m, "similarity", axes), "similarity", axes) for m in matrices]
        return cls(min(low for low, _ in ranges), max(high for _, high in ranges))

    def apply(self, values: npt.ArrayLike, out: Floating | None = None) -> Floating:
        """`scale` with this minimum and maximum."""
        return scale(values, self.minimum, self.maximum, out)


def shift_to_non_negative(
    similarity: npt.ArrayLike, out: Floating | None = None
) -> tuple[Floating, NonNegative]:
    """(s - min) / (max - min) over the whole matrix [rows, columns], and the record of it.

    The minimum becomes exactly 0 and the maximum exactly 1; a constant matrix becomes zeros, which
    the record says (`constant`). float32 and float64 keep their type and memory layout; out: as in
    `scale`. Raises ValueError for a value that is not finite (named) and for an empty matrix.
    """
    record = NonNegative.of(similarity)
    return record.apply(similarity, out), record


def scale(values: npt.ArrayLike, minimum: float, maximum: float, out: Floating | None = None) -> Floating:
    """(values - minimum) / (maximum - minimum), zeros when minimum = maximum.

    For work by chunks: values [rows, columns] is a part of the data that minimum and maximum
    describe. out: array of the same shape and type to fill, which may be `values` itself.
    Raises ValueError when a value lies outside minimum..maximum or is not finite, or `out` does
    not fit, or the span overflows the type.
    """
    axes = ("row", "column")
    raw = as_floating(values, "values", axes)
    low, high = finite_range(raw, "values", axes)
    bottom, top = raw.dtype.type(minimum), raw.dtype.type(maximum)
    if not bottom <= low <= high <= top:
        raise ValueError(f"values lie in {low}..{high}, outside minimum..maximum {minimum}..{maximum}")
    if out is None:
        out = np.empty_like(raw)
    elif out.shape != raw.shape or out.dtype != raw.dtype:
        raise ValueError(f"out is {out.dtype} {out.shape}, but must be {raw.dtype} {raw.shape}")
    span = float(top) - float(bottom)
    if span > float(np.finfo(raw.dtype).max):
        raise ValueError(f"maximum - minimum ({maximum} - {minimum}) overflows {raw.dtype}")
    if span == 0:
        out.fill(0)
    else:
        np.divide(np.subtract(raw, bottom, out=out), raw.dtype.type(span), out=out)
    return out
