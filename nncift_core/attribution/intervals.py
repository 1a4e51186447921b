"""What a measure is, how sure it is, and from how much: 90 % intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Float64 = npt.NDArray[np.float64]

LEVEL = 0.9


@dataclass(frozen=True)
class Measured:
    """A measure with its interval lower..upper (nan where nothing says how sure it is) and the n it rests on:
    queries, or planted rows."""

    value: float
    lower: float
    upper: float
    n: int


def within(value: float, lower: float, upper: float, n: int, bounds: tuple[float, float]) -> Measured:
    """A measure that cannot leave `bounds`, and whose interval holds it."""
    low, high = bounds
    return Measured(value, max(low, min(lower, value)), min(high, max(upper, value)), n)


def half_width(values: Float64, factor: float | None = None) -> float:
    """Half of Student's interval of the mean of values [n]; factor: of the standard deviation, 1/sqrt(n)
    where None. nan for n < 2."""
    n = len(values)
    if n < 2:
        return math.nan
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
    return quantile * float(values.std(ddof=1)) * (1 / math.sqrt(n) if factor is None else factor)


def wilson(found: float, n: int) -> Measured:
    """A share found / n with Wilson's interval (1927); `found` may be a sum of probabilities. nan for
    n = 0."""
    if n == 0:
        return Measured(math.nan, math.nan, math.nan, 0)
    z, p = float(stats.norm.ppf((1 + LEVEL) / 2)), found / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return within(p, middle - half, middle + half, n, (0.0, 1.0))
