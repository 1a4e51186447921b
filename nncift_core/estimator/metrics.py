"""Agreement of predicted with exact influence on pairs [n]; None wherever a number is not defined."""

from __future__ import annotations

import math

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
    return float(_membership(truth, k) @ _membership(predicted, k)) / k


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
    rng = np.random.default_rng(seed)
    step = max(1, _FLOATS_PER_PASS // n)
    draws = [_resampled(x, y, min(step, n_boot - b), rng) for b in range(0, n_boot, step)]
    values = np.concatenate(draws)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return None, None
    lower, upper = np.quantile(values, [0.05, 0.95])
    return float(lower), float(upper)


def _membership(x: Float64, k: int) -> Float64:
    """Expected membership in the k largest of x [n], ties at the edge broken at random."""
    edge = np.partition(x, len(x) - k)[len(x) - k]
    above, tied = x > edge, x == edge
    out: Float64 = above + tied * ((k - above.sum()) / tied.sum())
    return out


def _resampled(x: Float64, y: Float64, draws: int, rng: np.random.Generator) -> Float64:
    """Spearman correlation of `draws` bootstrap samples; NaN where x or y came out constant."""
    n = len(x)
    weights = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(draws)])
    rx, ry = _weighted_ranks(x, weights), _weighted_ranks(y, weights)
    mean = (n + 1) / 2
    rx, ry = rx - mean, ry - mean
    covariance = (weights * rx * ry).sum(axis=1)
    variance = (weights * rx * rx).sum(axis=1) * (weights * ry * ry).sum(axis=1)
    out = np.full(draws, np.nan)
    np.divide(covariance, np.sqrt(variance), out=out, where=variance > 0)
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
