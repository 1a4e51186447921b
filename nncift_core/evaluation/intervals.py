"""How sure a held-out score and a difference of scores are: 90 % intervals and verdicts.

A difference is doubtful for two reasons: other test rows might have been drawn (bootstrap over rows), and
another seed might have drawn or trained otherwise (t interval over seeds). Both half-widths are added
in quadrature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

LEVEL = 0.9
BETTER, WORSE, UNCLEAR, ONE_SEED = "better", "worse", "no clear difference", "one seed: no verdict"
NO_ROWS = "no rows to compare"
_DRAWS = 2000
_FLOATS_PER_PASS = 1 << 20


@dataclass(frozen=True)
class Comparison:
    """`value` of ours beside `against_value` of theirs: means over seeds and rows.

    gain: by how much ours is better (positive: better, whichever way the metric points), with its
    interval lower..upper; n_seeds: fewest seeds of a side that has several, else 1; n_rows: test
    rows with a number under every model of both sides; verdict on ours: "better", "worse", "no clear
    difference", "one seed: no verdict" or, with all numbers NaN, "no rows to compare".
    """

    value: float
    against_value: float
    gain: float
    lower: float
    upper: float
    n_seeds: int
    n_rows: int
    verdict: str


def mean_interval(values: Float64, seed: int, level: float = LEVEL) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of values [n]: rows drawn with replacement, 2,000 draws.

    Rows without a number (NaN) are left out. Never narrower than Student's t interval, since a bootstrap of
    few rows is too narrow. (nan, nan) for n < 2, where rows say nothing of their spread.
    """
    values = values[~np.isnan(values)]
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    step = max(1, _FLOATS_PER_PASS // n)
    sizes = [min(step, _DRAWS - start) for start in range(0, _DRAWS, step)]
    means = np.concatenate([values[rng.integers(0, n, (size, n))].mean(axis=1) for size in sizes])
    lower, upper = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    mean = float(values.mean())
    half = t_quantile((1 + level) / 2, n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return min(float(lower), mean - half), max(float(upper), mean + half)


def compare(
    ours: Float64,
    theirs: Float64,
    higher_is_better: bool,
    seed: int,
    level: float = LEVEL,
    *,
    seeded: bool = True,
) -> Comparison:
    """Compare row scores ours [S, n] with theirs [S2, n], the same n test rows in the same order.

    A row that has no number (NaN) under some model of either side is left out on both, so that all are
    asked the same.
    Rows: bootstrap of the row-wise difference of seed means. Seeds: with S = S2 > 1 the seeds are paired,
    standard error of the mean difference, S - 1 degrees of freedom; else Welch's. A side of one seed
    beside one of several is taken as known: give such a side only for a model without seeds, like the
    base model. With one seed on both sides the interval holds the rows' doubt alone, and there is no
    verdict, unless `seeded` is False: neither side was drawn or trained. With n < 2 the
    interval is (nan, nan). Raises ValueError for other shapes.
    """
    if ours.ndim != 2 or theirs.ndim != 2 or ours.shape[1] != theirs.shape[1] or not ours.size * theirs.size:
        raise ValueError(f"cannot compare scores of shapes {ours.shape} and {theirs.shape}")
    known = ~(np.isnan(ours).any(axis=0) | np.isnan(theirs).any(axis=0))
    if not known.any():
        nan = math.nan
        return Comparison(nan, nan, nan, nan, nan, n_seeds=1, n_rows=0, verdict=NO_ROWS)
    ours, theirs = ours[:, known], theirs[:, known]
    sign = 1.0 if higher_is_better else -1.0
    per_row = sign * (ours.mean(axis=0) - theirs.mean(axis=0))
    gain = float(per_row.mean())
    from_seeds = _seed_half_width(ours.mean(axis=1), theirs.mean(axis=1), level)
    low, high = mean_interval(per_row, seed, level)
    lower, upper = gain - math.hypot(from_seeds, gain - low), gain + math.hypot(from_seeds, high - gain)
    several = [len(side) for side in (ours, theirs) if len(side) > 1]
    return Comparison(
        value=float(ours.mean()),
        against_value=float(theirs.mean()),
        gain=gain,
        lower=lower,
        upper=upper,
        n_seeds=min(several, default=1),
        n_rows=ours.shape[1],
        verdict=ONE_SEED if seeded and not several else _verdict(lower, upper),
    )


def t_quantile(probability: float, dof: float) -> float:
    """The point that Student's t with `dof` >= 1 degrees of freedom stays below with `probability`.

    With t = sqrt(dof) tan(a), P(0 < T < t) is proportional to the integral of cos(x)^(dof - 1) over 0..a.
    Raises ValueError for dof < 1 or a probability outside 0.001..0.999, where the sum gets inexact.
    """
    if dof < 1 or not 0.001 <= probability <= 0.999:
        raise ValueError(f"no t quantile at {probability} with {dof} degrees of freedom")
    nodes, weights = np.polynomial.legendre.leggauss(64)
    scale = math.exp(math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2)) / math.sqrt(math.pi)
    wanted = abs(probability - 0.5)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        share = scale * angle / 2 * float(weights @ np.cos(angle / 2 * (nodes + 1)) ** (dof - 1))
        low, high = (angle, high) if share < wanted else (low, angle)
    return math.copysign(math.sqrt(dof) * math.tan(low), probability - 0.5)


def _seed_half_width(ours: Float64, theirs: Float64, level: float) -> float:
    """Half-width of the interval of the difference of means over seeds: ours [S], theirs [S2]."""
    if len(ours) == len(theirs) > 1:
        variance, dof = float((ours - theirs).var(ddof=1)) / len(ours), len(ours) - 1.0
    else:
        parts = [
            (float(side.var(ddof=1)) / len(side), len(side) - 1) for side in (ours, theirs) if len(side) > 1
        ]
        variance = sum(part for part, _ in parts)
        if variance == 0:
            return 0.0
        # Shares of the variance, since squares of tiny variances underflow.
        dof = 1 / sum((part / variance) ** 2 / freedom for part, freedom in parts)
    return t_quantile((1 + level) / 2, dof) * math.sqrt(variance)


def _verdict(lower: float, upper: float) -> str:
    if lower > 0:
        return BETTER
    return WORSE if upper < 0 else UNCLEAR
