"""What is lost without the rows that count most: QLD and leave-top-k-out, both against random removal.

QLD = mean over queries j of (loss of j without the k rows of highest tau(i, j), minus its mean loss without
k random rows). Leave-top-k-out is the same with one model for all queries, trained without the k rows of
highest mean value. A method is right where the loss rises by more than at random (above 0).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from nncift_core.attribution.intervals import Measured, half_width

Float64 = npt.NDArray[np.float64]


def removal_effect(without_top: Float64, without_random: Float64, *, one_model: bool) -> Measured:
    """Rise of the loss by removing top rows, beyond that by removing random ones, in the loss's unit.

    without_top [Q]: loss of every query; without_random [R, Q]: under each of R random removals of as many
    rows. one_model: whether one model gave all of `without_top` (leave-top-k-out); then its own training is
    one draw of what R tells the spread of, and counts as such. The interval adds, in squares, Student's
    half-widths over queries and over random removals; nan for fewer than two of either.
    Raises ValueError for shapes that do not fit.
    """
    if without_random.ndim != 2 or without_random.shape[1:] != without_top.shape or not without_random.size:
        raise ValueError(f"no effect from shapes {without_top.shape} and {without_random.shape}")
    rise = without_top - without_random.mean(axis=0)
    draws = without_random.mean(axis=1)
    factor = math.sqrt((1 if one_model else 0) + 1 / len(draws))
    half = math.hypot(half_width(rise), half_width(draws, factor))
    value = float(rise.mean())
    return Measured(value, value - half, value + half, len(rise))
