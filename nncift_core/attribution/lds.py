"""The linear datamodeling score: do sums of values predict what models trained on random subsets lose?

LDS = mean over queries j of Spearman over models m of (sum of tau(i, j) over i in S_m, -loss_m(j)), where S_m
are random subsets of one size (Park et al. 2023, eq. 4). As all S_m are taken from one pool, the sum over the
rows left out, with the other sign, ranks models alike.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from nncift_core.attribution.intervals import LEVEL, Measured, within

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_DRAWS = 1000
_FLOATS_PER_PASS = 1 << 21
# Sums of one value in another order differ by rounding; that is no ranking.
_EQUAL = 1e-9


def subset_sums(values: npt.NDArray[np.floating[Any]], counts: Int64) -> Float64:
    """Sums [m, Q] of values [M, Q] over m subsets; counts [m, M]: how often each holds a row."""
    m, (rows, queries) = len(counts), values.shape
    sums = np.zeros((m, queries))
    step = max(1, _FLOATS_PER_PASS // max(1, m + queries))
    for start in range(0, rows, step):
        here = slice(start, start + step)
        sums += counts[:, here].astype(np.float64) @ values[here].astype(np.float64)
    return sums


def query_correlations(sums: Float64, losses: Float64) -> Float64:
    """Spearman of sums [m, Q] with -losses [m, Q] over models, for every query [Q]; average ranks for ties. A
    query whose sums (or losses) are all the same counts 0: they rank nothing."""
    return _correlations(_settled(sums).T, losses.T)


def lds(sums: Float64, losses: Float64, seed: int = 0) -> Measured:
    """LDS of subset sums [m, Q] and losses [m, Q] of the same models, with a bootstrap interval that draws
    queries and models anew (1,000 draws; both, for other queries and other subsets might have been used).

    Raises ValueError for fewer than two models, no query, or shapes that differ.
    """
    if sums.shape != losses.shape or sums.ndim != 2 or len(sums) < 2 or not sums.shape[1]:
        raise ValueError(f"no LDS of shapes {sums.shape} and {losses.shape}")
    sums = _settled(sums)
    value = float(_correlations(sums.T, losses.T).mean())
    m, q = sums.shape
    if m < 3 or q < 2:
        return Measured(value, math.nan, math.nan, q)
    rng = np.random.default_rng(seed)
    step = max(1, _FLOATS_PER_PASS // (m * q))
    means = []
    for start in range(0, _DRAWS, step):
        n = min(step, _DRAWS - start)
        models, queries = rng.integers(0, m, (n, m)), rng.integers(0, q, (n, q))
        drawn = (np.moveaxis(a[models], 1, -1) for a in (sums, losses))
        found = _correlations(*drawn)
        means.append(np.take_along_axis(found, queries, axis=1).mean(axis=1))
    lower, upper = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return within(value, float(lower), float(upper), q, (-1.0, 1.0))


def seed_agreement(losses: Float64) -> float:
    """Mean Spearman, over queries and pairs of seeds, of losses [s, m, Q] over models: the most that LDS can
    reach against one seed's losses. nan for one seed."""
    found = [
        _correlations(losses[a].T, -losses[b].T).mean()
        for a in range(len(losses)) for b in range(a + 1, len(losses))
    ]  # fmt: skip
    return float(np.mean(found)) if found else math.nan


def _settled(sums: Float64) -> Float64:
    """Sums [m, Q] with 0 for queries whose sums differ by no more than rounding."""
    spread, size = np.ptp(sums, axis=0), np.abs(sums).max(axis=0)
    return np.where(spread > _EQUAL * size, sums, 0.0)


def _correlations(sums: Float64, losses: Float64) -> Float64:
    """Spearman of sums [..., m] with -losses [..., m] along the last axis, 0 where either is constant."""
    ranks = [stats.rankdata(a, axis=-1) for a in (sums, -losses)]
    a, b = (r - r.mean(axis=-1, keepdims=True) for r in ranks)
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    together = (a * b).sum(axis=-1)
    found: Float64 = np.divide(together, scale, out=np.zeros_like(together), where=scale > 0)
    return found
