"""Agreement of predicted with exact influence on pairs [n]; None wherever a number is not defined."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

MINIMUM_PAIRS = 3
MINIMUM_PER_TARGET = 5
BOOTSTRAP_LIMIT = 5000
_Z90 = 1.6448536269514722
_FLOATS_PER_PASS = 1 << 20


def average_ranks(x: Float64) -> Float64:
    """Ranks 1..n of x [n]; tied values share the mean of their ranks."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    out: Float64 = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return out


def pearson(x: Float64, y: Float64) -> float | None:
    """Linear correlation; None for n < 3 or when x or y does not vary."""
    if len(x) < MINIMUM_PAIRS or x.min() == x.max() or y.min() == y.max():
        return None
    a, b = x - x.mean(), y - y.mean()
    # Dividing by the largest entry first keeps squares of tiny influences from underflowing.
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    return float(np.clip((a @ b) / math.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def spearman(x: Float64, y: Float64) -> float | None:
    """Pearson correlation of the average ranks; None for n < 3 or when x or y does not vary."""
    if len(x) < MINIMUM_PAIRS:
        return None
    return pearson(average_ranks(x), average_ranks(y))


def spearman_per_target(truth: Float64, predicted: Float64, columns: Int64) -> float | None:
    """Mean over target columns of the Spearman correlation within the column.

    Only columns with at least 5 pairs and exact values that vary count. A column inside which the
    prediction is constant counts as 0, since it ranks nothing there; None when no column counts or the
    prediction is constant inside every one of them.
    """
    order = np.argsort(columns, kind="stable")
    starts = np.flatnonzero(np.diff(columns[order])) + 1
    found: list[float | None] = []
    for group in np.split(order, starts):
        t = truth[group]
        if len(group) >= MINIMUM_PER_TARGET and t.min() < t.max():
            found.append(spearman(t, predicted[group]))
    if all(value is None for value in found):
        return None
    return float(np.mean([value or 0.0 for value in found]))


def column_centred(x: Float64, columns: Int64) -> Float64:
    """x[k] minus the mean of its column's pairs, [n]; exactly 0 wherever x is constant inside the column."""
    _, group, counts = np.unique(columns, return_inverse=True, return_counts=True)
    low, high = np.full(len(counts), np.inf), np.full(len(counts), -np.inf)
    np.minimum.at(low, group, x)
    np.maximum.at(high, group, x)
    out: Float64 = x - (np.bincount(group, x, len(counts)) / counts)[group]
    # The mean of equal numbers is often not quite that number, and ranks would see the rounding.
    out[(low == high)[group]] = 0
    return out


def spearman_centred(truth: Float64, predicted: Float64, columns: Int64) -> float | None:
    """Spearman correlation after `column_centred` of both: ranking that knows no column effect.

    Over the pairs of columns with at least two; None for fewer than 3 such pairs or when either side is
    constant inside every column.
    """
    _, group, counts = np.unique(columns, return_inverse=True, return_counts=True)
    shared = counts[group] > 1
    here = columns[shared]
    return spearman(column_centred(truth[shared], here), column_centred(predicted[shared], here))


def r_squared(truth: Float64, predicted: Float64) -> float | None:
    """1 - SSE / SST around the mean of `truth` itself; None for n < 3 or when `truth` does not vary."""
    if len(truth) < MINIMUM_PAIRS or truth.min() == truth.max():
        return None
    sst = float(np.square(truth - truth.mean()).sum())
    return 1 - float(np.square(predicted - truth).sum()) / sst if sst > 0 else None


def recall_at_k(truth: Float64, predicted: Float64, top: float) -> float | None:
    """Share of the true top k found in the predicted top k, k = max(1, round(top * n)).

    Ties at the edge of either top are counted in expectation, as if broken at random: with `t` items
    tied for `s` places each holds s/t of a place. So a constant prediction gets k/n, about `top`, and
    no order of the input can help. None for n < 3 or when `truth` does not vary.
    """
    if len(truth) < MINIMUM_PAIRS or truth.min() == truth.max():
        return None
    k = max(1, round(top * len(truth)))
    return float(top_membership(truth, k) @ top_membership(predicted, k)) / k


def top_membership(x: Float64, k: int) -> Float64:
    """Expected membership in the k largest of x [n], ties at the edge broken at random; sums to k."""
    edge = np.partition(x, len(x) - k)[len(x) - k]
    above, tied = x > edge, x == edge
    out: Float64 = above + tied * ((k - above.sum()) / tied.sum())
    return out


def spearman_interval(
    x: Float64, y: Float64, n_boot: int, seed: int
) -> tuple[float, float] | tuple[None, None]:
    """90 % interval of the Spearman correlation over pairs; None where the correlation is undefined.

    Percentile bootstrap: pairs are drawn with replacement `n_boot` times and ranked anew each time
    (draws that leave x or y constant are passed over). Above 5,000 pairs the large-sample form
    `tanh(atanh(rho) +- 1.645 sqrt((1 + rho^2 / 2) / (n - 3)))` of Bonett and Wright (2000). Both take
    pairs as independent; pairs that share rows or columns make the true interval wider.
    """
    rho = spearman(x, y)
    n = len(x)
    if rho is None or n_boot < 1:
        return None, None
    if n > BOOTSTRAP_LIMIT:
        if abs(rho) >= 1:
            return rho, rho
        half = _Z90 * math.sqrt((1 + rho**2 / 2) / (n - 3))
        return math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half)
    values = resampled_correlation(x, [y], n_boot, seed)[0]
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return None, None
    lower, upper = np.quantile(values, [0.05, 0.95])
    return float(lower), float(upper)


def resampled_correlation(
    x: Float64,
    others: Sequence[Float64],
    n_boot: int,
    seed: int,
    *,
    ranks: bool = True,
    clusters: Int64 | None = None,
) -> Float64:
    """Correlation of x [n] with each of `others` [n] in bootstrap samples, [others, n_boot].

    Spearman, ranked anew in each sample, or Pearson without `ranks`. Samples draw n pairs with replacement;
    with `clusters` [n], as many whole clusters as there are. Equal seeds draw equal samples. NaN where x or
    the other came out constant.
    """
    rng = np.random.default_rng(seed)
    step = max(1, _FLOATS_PER_PASS // max(1, len(x)))
    out = np.empty((len(others), n_boot))
    for b in range(0, n_boot, step):
        draws = min(step, n_boot - b)
        weights = _sample_counts(len(x), draws, rng, clusters)
        a = _weighted_ranks(x, weights) if ranks else x[None]
        for k, y in enumerate(others):
            c = _weighted_ranks(y, weights) if ranks else y[None]
            out[k, b : b + draws] = _weighted_correlation(a, c, weights)
    return out


def _sample_counts(n: int, draws: int, rng: np.random.Generator, clusters: Int64 | None) -> Int64:
    """How often each of n pairs is in each sample, [draws, n]."""
    if clusters is None:
        return np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(draws)])
    names, group = np.unique(clusters, return_inverse=True)
    out: Int64 = _sample_counts(len(names), draws, rng, None)[:, group]
    return out


def _weighted_correlation(x: Float64, y: Float64, weights: Int64) -> Float64:
    """Pearson correlation of x and y, [draws, n] or [1, n], under `weights` [draws, n], [draws].

    NaN where it is not defined.
    """
    total = weights.sum(axis=1, keepdims=True)
    a, b = (v - (weights * v).sum(axis=1, keepdims=True) / total for v in (x, y))
    # Keeps squares of tiny influences from underflowing, and a constant's rounding from passing for spread.
    a, b = (_unit_spread(d, v, weights) for d, v in ((a, x), (b, y)))
    covariance = (weights * a * b).sum(axis=1)
    variance = (weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1)
    out = np.full(len(weights), np.nan)
    np.divide(covariance, np.sqrt(variance), out=out, where=variance > 0)
    return out


def _unit_spread(deviation: Float64, x: Float64, weights: Int64) -> Float64:
    """`deviation` [draws, n] over its largest drawn entry; 0 where that is rounding of x."""
    drawn = weights > 0
    largest = np.where(drawn, np.abs(deviation), 0).max(axis=1, keepdims=True)
    rounding = 1e-14 * np.where(drawn, np.abs(x), 0).max(axis=1, keepdims=True)
    out: Float64 = np.divide(deviation, largest, out=np.zeros_like(deviation), where=largest > rounding)
    return out


def _weighted_ranks(x: Float64, weights: Int64) -> Float64:
    """Average ranks of x [n] in samples holding x[i] `weights[b, i]` times, [b, n]."""
    order = np.argsort(x, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(x[order]) > 0])
    groups = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(groups, axis=1) - (groups - 1) / 2
    out = np.empty(weights.shape)
    out[:, order] = np.repeat(ranks, np.diff(np.r_[starts, len(x)]), axis=1)
    return out
