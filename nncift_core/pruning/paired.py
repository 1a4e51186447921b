"""Differences of two ways to prune, paired by seed: mean, spread, 90 % interval and what it says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.evaluation.intervals import BETTER, LEVEL, UNCLEAR, WORSE, t_quantile

Float64 = npt.NDArray[np.float64]
Point = Mapping[str, Any]
Key = tuple[Any, ...]

_t = lru_cache(maxsize=256)(t_quantile)
# Half-width of a 90 % interval in standard errors, where there are many rows.
NORMAL = 1.6448536269514722


@dataclass(frozen=True)
class Paired:
    """Mean of paired differences over n seeds; spread: their standard deviation, lower and upper: the 90 %
    interval of the mean, None with one seed."""

    mean: float
    spread: float | None
    lower: float | None
    upper: float | None
    n: int

    @property
    def verdict(self) -> str | None:
        """ "better", "worse" or "no clear difference"; None with one seed."""
        if self.lower is None or self.upper is None:
            return None
        if self.lower > 0:
            return BETTER
        return WORSE if self.upper < 0 else UNCLEAR


def paired(differences: Sequence[float], more: float = 0.0) -> Paired | None:
    """Student's t interval of the mean of `differences`, one per seed; None for none of them.

    more: half-width of another, independent doubt, added in quadrature.
    """
    if not differences:
        return None
    x = np.asarray(differences, np.float64)
    mean, n = float(x.mean()), len(x)
    if n < 2:
        return Paired(mean, None, None, None, n)
    spread = float(x.std(ddof=1))
    half = math.hypot(_t((1 + LEVEL) / 2, n - 1) * spread / math.sqrt(n), more)
    return Paired(mean, spread, mean - half, mean + half, n)


def by_seed(points: Iterable[Point]) -> dict[int, Point]:
    """seed -> point. Raises ValueError for two points of one seed."""
    out: dict[int, Point] = {}
    for p in points:
        if p["seed"] in out:
            raise ValueError(f"two points of seed {p['seed']} with the same settings: {p['score']}")
        out[p["seed"]] = p
    return out


def row_doubt(ours: Sequence[Point], theirs: Sequence[Point]) -> float:
    """Standard error of the gain in accuracy because other rows might have been evaluated.

    ours[s], theirs[s]: points of the same seed, judged on the same n rows. With d_i the share of our seeds
    that get row i right less the share of theirs: hypot(sd(d) / sqrt(n), 1 / n). Rows are taken as drawn
    independently; the second part is one row more or less, for rows without a difference prove no equality.
    """
    d = _right(ours) - _right(theirs)
    n = len(d)
    return math.hypot(float(d.std(ddof=1)) / math.sqrt(n), 1 / n) if n > 1 else 1.0


def gain_of(ours: Mapping[int, Point], theirs: Mapping[int, Point]) -> tuple[Paired | None, float]:
    """Accuracy of ours less theirs over the seeds of both, with the rows' doubt in the interval; and the
    standard error of that doubt."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None, 0.0
    a, b = [ours[s] for s in seeds], [theirs[s] for s in seeds]
    error = row_doubt(a, b)
    differences = [x["accuracy"] - y["accuracy"] for x, y in zip(a, b, strict=True)]
    return paired(differences, NORMAL * error), error


def _right(points: Sequence[Point]) -> Float64:
    """Share of the points that get each evaluated row right, [n]."""
    found: Float64 = np.mean([p["right"] for p in points], axis=0, dtype=np.float64)
    return found
