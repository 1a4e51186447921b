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
# With fewer classes their spread is too uncertain to stand for the rows' doubt.
ENOUGH_CLASSES = 20
# Degrees of freedom of what is known well enough to be called normal.
_MANY = 1000.0


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


def row_doubt(ours: Sequence[Point], theirs: Sequence[Point]) -> tuple[float, float]:
    """Standard error of the gain in accuracy because other rows might have been evaluated, and its degrees
    of freedom. ours[s], theirs[s]: points of the same seed, judged on the same rows.

    A point counts correct rows by class and not row by row, so that how rows pair is bounded from the counts.
    With n_k rows of class k, p_k and q_k the shares correct (means over seeds), D_k = n_k (p_k - q_k):

        unpaired  se^2 = sum_k n_k (p_k (1 - p_k) + q_k (1 - q_k)) / n^2,
        classes   se^2 = K / (K - 1) sum_k (D_k - n_k gain)^2 / n^2,   K - 1 degrees of freedom,

    and the smaller of them counts. The first takes the classes as they are and assumes that a row that one
    model gets right is not less likely to be got right by the other: too large as far as rows do pair. The
    second is the cluster-robust variance of a mean, with classes as clusters: it sees the pairing, and is too
    large as far as the gain truly differs from class to class. It is left out below 20 classes, where it is
    itself uncertain. Both assume rows drawn independently.
    """
    counts = {name: n for name, (_, n) in ours[0]["per_class"].items() if n}
    n = np.array(list(counts.values()), np.float64)
    a, b = _correct(ours, list(counts)), _correct(theirs, list(counts))
    total, k = float(n.sum()), len(n)
    if total == 0:
        return 0.0, _MANY
    # Half a row more on either side: a class without an error is not known to have none.
    p, q = (a + 0.5) / (n + 1), (b + 0.5) / (n + 1)
    unpaired = math.sqrt(float((n * (p * (1 - p) + q * (1 - q))).sum())) / total
    if k < ENOUGH_CLASSES:
        return unpaired, _MANY
    left = (a - b) - n * float((a - b).sum()) / total
    by_class = math.sqrt(k / (k - 1) * float(left @ left)) / total
    return (by_class, float(k - 1)) if by_class < unpaired else (unpaired, _MANY)


def gain_of(ours: Mapping[int, Point], theirs: Mapping[int, Point]) -> tuple[Paired | None, float]:
    """Accuracy of ours less theirs over the seeds of both, with the rows' doubt in the interval; and the
    standard error of that doubt."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None, 0.0
    a, b = [ours[s] for s in seeds], [theirs[s] for s in seeds]
    error, dof = row_doubt(a, b)
    differences = [x["accuracy"] - y["accuracy"] for x, y in zip(a, b, strict=True)]
    return paired(differences, _t((1 + LEVEL) / 2, dof) * error), error


def _correct(points: Sequence[Point], classes: Sequence[str]) -> Float64:
    """Correct rows of every class, mean over the points, [K]."""
    return np.array([np.mean([p["per_class"].get(c, (0, 0))[0] for p in points]) for c in classes])
