"""Finding what was planted: copies of a query among the pool's rows, and rows with another row's answer."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from nncift_core.attribution.intervals import LEVEL, Measured, half_width, wilson, within

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


def auc(scores: Float64, planted: Bool) -> Measured:
    """Probability that a planted row has a lower score [M] than another one, ties counting half (Mann and
    Whitney 1947): 1 finds all, 0.5 is chance, below it planted rows score higher. The interval is DeLong's
    (1988), from both groups' placements; n: planted rows. nan where either group is empty.
    """
    low, high = scores[planted], scores[~planted]
    m, n = len(low), len(high)
    if not m or not n:
        return Measured(math.nan, math.nan, math.nan, m)
    together = stats.rankdata(np.concatenate([low, high]))
    # Placements: of a planted row, the share of others above it; of another, the share of planted ones below.
    of_low = 1 - (together[:m] - stats.rankdata(low)) / n
    of_high = (together[m:] - stats.rankdata(high)) / m
    value = float(of_low.mean())
    if m < 2 or n < 2:
        return Measured(value, math.nan, math.nan, m)
    deviation = math.sqrt(of_low.var(ddof=1) / m + of_high.var(ddof=1) / n)
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * deviation
    return within(value, value - half, value + half, m, (0.0, 1.0))


def copies_found(values: Float64, copies: Int64, at: tuple[int, ...] = (1, 10)) -> dict[str, Measured]:
    """How high the copy of a query stands among all rows by their value for that query.

    values [M, D]: of all rows for the D queries that were copied; copies [D]: the row that is each one's
    copy.
    Keys: "auc", the share of other rows below the copy, ties half, mean over queries with Student's interval;
    "recall@k" for k of `at`, the share of copies among the first k, ties broken by chance, with Wilson's
    interval; "rank", the mean rank of copies from 1, ties averaged, with Student's interval.
    """
    m, d = values.shape
    own = values[copies, np.arange(d)]
    above, equal = (values > own).sum(axis=0), (values == own).sum(axis=0)
    rank = 1 + above + (equal - 1) / 2
    below = 1 - (rank - 1) / max(m - 1, 1)
    found = {
        "auc": _mean(below, (0.0, 1.0)),
        "rank": _mean(rank.astype(np.float64), (1.0, float(m))),
    }
    for k in at:
        chance = np.clip((k - above) / equal, 0, 1)
        found[f"recall@{k}"] = wilson(float(chance.sum()), d)
    return found


def _mean(values: Float64, bounds: tuple[float, float]) -> Measured:
    value, half = float(values.mean()), half_width(values)
    if math.isnan(half):
        return Measured(value, math.nan, math.nan, len(values))
    return within(value, value - half, value + half, len(values), bounds)


def swap_partners(answers: list[str]) -> Int64:
    """For each of n answers the index of another whose text differs; -1 where none does, as when all are the
    same. The answers move round in a ring as far as they differ, so that each is given about once."""
    n = len(answers)
    found = np.full(n, -1, np.int64)
    for k in range(n):
        found[k] = next(((k + s) % n for s in range(1, n) if answers[(k + s) % n] != answers[k]), -1)
    return found
