"""May the estimates be used? One verdict, from audit pairs that neither fitted nor chose the estimator.

A mean squared error says nothing (methods.md 1), and on some influence functions few labels teach nothing
(estimator-facts.md), so estimates are trusted only when they rank unseen pairs better than what costs
nothing. The error rates of the rules are shown by simulation in tests/estimator/test_gate.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.contract import LENGTH
from nncift_core.estimator.metrics import pearson, r_squared, resampled_correlation, spearman

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

MINIMUM_PAIRS = 30
RANK_LEVEL, DIFFERENCE_LEVEL = 0.98, 0.9
R2_FLOOR = 0.02
CONSTANT = "constant"
RANDOM = "random"
LENGTH_SHARE, LENGTH_R2 = 0.95, 0.5
_DRAWS = 1000
_CLUSTERS = 5


@dataclass(frozen=True)
class Verdict:
    """What may be done with the estimates, and why.

    level: "trusted"; "weak" (better than a constant, but no clear win over a baseline: use with care);
    "refused" (never select by it). rival: the best baseline beside it. fallback: the predictor to use
    instead of a refused one. difference, lower, upper: agreement (see `judge`) of the estimator minus that
    of the rival, with its 90 % interval; None when nothing was compared.
    """

    level: Literal["trusted", "weak", "refused"]
    reason: str
    rival: str | None
    fallback: str
    difference: float | None
    lower: float | None
    upper: float | None

    def as_row(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class _Measured:
    """One predictor: R^2, Spearman and agreement (0 where nothing is ranked), agreement in every sample."""

    r2: float
    rank: float
    agreement: float
    samples: Float64

    @property
    def interval(self) -> tuple[float, float]:
        return _interval(self.samples, RANK_LEVEL)

    @property
    def useful(self) -> bool:
        """Better than a constant, and ranks beyond its interval."""
        return self.r2 > R2_FLOOR and self.interval[0] > 0


def judge(
    truth: npt.NDArray[Any],
    predictions: Mapping[str, npt.NDArray[Any]],
    *,
    estimator: str,
    baselines: Sequence[str],
    columns: Int64,
    seed: int,
) -> Verdict:
    """Judge `estimator` on measuring pairs: `truth` [k] exact, `predictions` name -> [k], `columns` [k] ids.

    Statistic: agreement, the mean of Spearman's and Pearson's correlation over all pairs, an undefined one
    counted as 0. Spearman alone sees too little of what selection lives on, the few large values; Pearson
    alone can hang on one of them. Percentile intervals from 1,000 bootstrap samples, the same for all
    predictors (paired): 98 % for ranking at all, because an estimator of pure noise must be refused nearly
    always, 90 % for the difference to the rival. From 5 columns on, whole columns are drawn, since pairs of
    a column share its effect and a few lucky columns would pass for many pairs; below that, pairs. The rival
    is the baseline with the highest agreement; picking it on these same pairs errs on its side.

    refused: fewer than 30 pairs; exact values that do not vary; R^2 <= 0.02, around the mean of these exact
    values (a fit of shuffled labels, shrunk to next to nothing, often comes out just above 0); the interval
    of agreement reaches 0; or the difference to the rival lies wholly below 0.
    trusted: none of these, the estimator is no baseline itself, its difference to the rival lies wholly
    above 0, and length does not explain it. weak: what remains.
    Length explains it when the "length" baseline has R^2 > 0.5 and at least 95 % of the estimator's
    Spearman: learning adds nothing there.
    fallback: the baseline with the highest agreement among those with R^2 > 0.02 and an interval above 0
    ("random" never), else "constant".

    Raises ValueError for an estimator or baseline without predictions, lengths that differ or numbers that
    are not finite.
    """
    z = _checked("exact values", truth, len(truth))
    names = list(dict.fromkeys([estimator, *baselines]))
    missing = [name for name in names if name not in predictions]
    if missing:
        raise ValueError(f"no predictions of {missing}, only of {sorted(predictions)}")
    predicted = [_checked(name, predictions[name], len(z)) for name in names]
    if len(z) < MINIMUM_PAIRS:
        return _unmeasured(f"only {len(z)} audit pairs measure {estimator}, {MINIMUM_PAIRS} are needed")
    if z.min() == z.max():
        return _unmeasured("the exact values of the audit pairs do not vary")
    clusters = columns if len(np.unique(columns)) >= _CLUSTERS else None
    by_rank, by_value = (
        np.nan_to_num(resampled_correlation(z, predicted, _DRAWS, seed, ranks=ranks, clusters=clusters))
        for ranks in (True, False)
    )
    samples = (by_rank + by_value) / 2
    found = {name: _measured(z, p, s) for name, p, s in zip(names, predicted, samples, strict=True)}
    return _verdict(found, estimator, [name for name in names if name in baselines])


def _verdict(found: dict[str, _Measured], estimator: str, baselines: list[str]) -> Verdict:
    """The rules in the docstring of `judge`."""
    own = found[estimator]
    rivals = sorted((name for name in baselines if name != estimator), key=lambda n: -found[n].agreement)
    useful = [name for name in sorted(baselines, key=lambda n: -found[n].agreement) if found[name].useful]
    fallback = next((name for name in useful if name != RANDOM), CONSTANT)
    rival = rivals[0] if rivals else None
    difference = lower = upper = None
    if rival is not None:
        difference = own.agreement - found[rival].agreement
        lower, upper = _interval(own.samples - found[rival].samples, DIFFERENCE_LEVEL)
    agreement = _told(own.agreement, own.interval)
    told = f"{estimator}: R2 {own.r2:.2f}, Spearman {own.rank:.2f}, agreement {agreement}"
    against = ""
    if rival is not None and difference is not None and lower is not None and upper is not None:
        against = f"; {_told(difference, (lower, upper), '+.2f')} against {rival}"

    def verdict(level: Literal["trusted", "weak", "refused"], why: str) -> Verdict:
        return Verdict(level, f"{why} ({told}{against})", rival, fallback, difference, lower, upper)

    if own.r2 <= R2_FLOOR:
        return verdict("refused", f"no better than a constant on unseen pairs: R2 <= {R2_FLOOR}")
    if own.interval[0] <= 0:
        return verdict("refused", "does not rank unseen pairs beyond chance")
    if upper is not None and upper < 0:
        return verdict("refused", f"clearly worse than the cheap baseline {rival}")
    if _length_explains(found, estimator, baselines):
        return verdict("weak", "length explains it: learning adds nothing beyond length")
    if estimator in baselines:
        return verdict("weak", f"{estimator} is itself a cheap baseline: nothing learned is used")
    if lower is not None and lower <= 0:
        return verdict("weak", f"no clear win over the cheap baseline {rival}")
    beaten = "every cheap baseline" if rival is not None else "a constant; no baseline to compare with"
    return verdict("trusted", f"ranks unseen pairs better than {beaten}")


def _length_explains(found: dict[str, _Measured], estimator: str, baselines: list[str]) -> bool:
    if LENGTH not in baselines:
        return False
    length = found[LENGTH]
    return length.r2 > LENGTH_R2 and length.rank >= LENGTH_SHARE * found[estimator].rank


def _measured(truth: Float64, predicted: Float64, samples: Float64) -> _Measured:
    rank = spearman(truth, predicted) or 0.0
    agreement = (rank + (pearson(truth, predicted) or 0.0)) / 2
    return _Measured(r_squared(truth, predicted) or 0.0, rank, agreement, samples)


def _unmeasured(reason: str) -> Verdict:
    """Nothing is known, of the baselines no more than of the estimator."""
    return Verdict("refused", reason, None, CONSTANT, None, None, None)


def _checked(name: str, values: npt.NDArray[Any], n: int) -> Float64:
    x = np.asarray(values, np.float64)
    if x.shape != (n,):
        raise ValueError(f"{name} is {list(x.shape)}, there are {n} exact values")
    bad = int((~np.isfinite(x)).sum())
    if bad:
        raise ValueError(f"{bad} of {n} numbers of {name} are not finite")
    return x


def _interval(samples: Float64, level: float) -> tuple[float, float]:
    lower, upper = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)


def _told(value: float, interval: tuple[float, float], form: str = ".2f") -> str:
    return f"{value:{form}} ({interval[0]:{form}} to {interval[1]:{form}})"
