"""By what one estimator is preferred to another: measures of held-out predictions, and their combination.

"Choose by the metric of the selection rule that follows, not by MSE" (estimator-facts.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.metrics import (
    MINIMUM_PER_TARGET,
    column_centred,
    r_squared,
    recall_at_k,
    spearman,
    spearman_centred,
    spearman_per_target,
    top_membership,
)
from nncift_core.selection import NonNegative, facility_location

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Measures = dict[str, float | None]

TOP = 0.1
RANKING = ("spearman", "spearman_centred", "spearman_per_target", "r2")
SELECTING: Mapping[str, Sequence[str]] = {
    "top-k": ("gain", "score_spearman"),
    "fl": ("gain", "recall", "spearman_per_target"),
    "flmi": ("gain", "recall", "spearman_per_target"),
    "flcg": ("gain", "recall", "spearman_per_target"),
}
AUDIT = ("audit_spearman", "audit_spearman_centred", "audit_r2")
_MINIMUM_CENTRED = 50


def combined(measures: Measures, rule: str) -> float | None:
    """The criterion: larger is better; None when `measures` hold nothing to go by.

    The mean of three parts, each the mean of its measures clipped to [-1, 1]; measures that the data do not
    define, and parts without any, are left out (for all candidates alike: see `measure`):
    - selecting: what the rule that follows reads. top-k: `gain` and `score_spearman`; facility location:
      `gain`, `recall`, `spearman_per_target`;
    - ranking of held-out rows: `spearman`, `spearman_centred`, `spearman_per_target`, `r2`;
    - the scattered audit, which also holds unseen columns: the same without `spearman_per_target`.
    All are bounded shares or correlations, so nothing has to be scaled by the spread among candidates, and
    no single noisy number decides. R^2 speaks against estimates of the wrong scale, which the gate refuses.
    """
    parts = [_part(measures, names) for names in (SELECTING[rule], RANKING, AUDIT)]
    found = [part for part in parts if part is not None]
    return float(np.mean(found)) if found else None


def measure(
    truth: Float64, predicted: Float64, rows: Int64, columns: Int64, *, rule: str, share: float
) -> Measures:
    """Measures of held-out pairs: row rows[k], column columns[k], exact truth[k], predicted[k].

    spearman, spearman_centred (less each column's mean), spearman_per_target, r2: as in `metrics`;
    recall: mean over columns with at least 5 pairs of `recall_at_k` for the top 10 %;
    score_spearman: Spearman of the rows' scores, a score being the row's mean of column-centred values
    (in a full block: the mean score of a row up to a constant);
    gain: (f(predicted subset) - f(random)) / (f(exact subset) - f(random)) for `share` of the rows, at
    least one, with f the sum of exact scores (top-k) or the coverage sum_j max_a of exact values after
    min-max scaling (facility location, full blocks only); f(random) is the expectation, not a draw.

    A prediction that is constant where a measure needs order ranks nothing and counts as 0 (`gain` and
    correlations). None: the exact values themselves do not define the measure.
    """
    ideal = _raw(truth, truth, rows, columns, rule, share)
    got = _raw(truth, predicted, rows, columns, rule, share)
    return {name: None if ideal[name] is None else (got[name] or 0.0) for name in ideal}


def measure_audit(truth: Float64, predicted: Float64, columns: Int64) -> Measures:
    """`AUDIT` measures of scattered pairs; centred only when columns with 2 or more pairs hold 50 of them."""
    _, group, counts = np.unique(columns, return_inverse=True, return_counts=True)
    shared = int((counts[group] > 1).sum())
    out = dict.fromkeys(AUDIT) | {"audit_r2": r_squared(truth, predicted)}
    if out["audit_r2"] is None:
        return out
    out["audit_spearman"] = spearman(truth, predicted) or 0.0
    if shared >= _MINIMUM_CENTRED:
        out["audit_spearman_centred"] = spearman_centred(truth, predicted, columns) or 0.0
    return out


def mean_measures(folds: Sequence[Measures]) -> Measures:
    """Mean of each measure over the folds that define it; None where none does."""
    out: Measures = {}
    for name in dict.fromkeys(name for fold in folds for name in fold):
        values = [value for fold in folds if (value := fold.get(name)) is not None]
        out[name] = float(np.mean(values)) if values else None
    return out


def _part(measures: Measures, names: Sequence[str]) -> float | None:
    values = [value for name in names if (value := measures.get(name)) is not None]
    return float(np.clip(values, -1, 1).mean()) if values else None


def _raw(
    truth: Float64, predicted: Float64, rows: Int64, columns: Int64, rule: str, share: float
) -> Measures:
    _, row = np.unique(rows, return_inverse=True)
    counts = np.bincount(row)
    exact = np.bincount(row, column_centred(truth, columns)) / counts
    scores = np.bincount(row, column_centred(predicted, columns)) / counts
    out: Measures = {
        "spearman": spearman(truth, predicted),
        "spearman_centred": spearman_centred(truth, predicted, columns),
        "spearman_per_target": spearman_per_target(truth, predicted, columns),
        "r2": r_squared(truth, predicted),
        "recall": _recall_per_target(truth, predicted, columns),
        "score_spearman": spearman(exact, scores),
        "gain": None,
    }
    budget = max(1, round(share * len(counts)))
    if budget >= len(counts):
        return out
    if rule == "top-k":
        out["gain"] = _gain_of_scores(exact, scores, budget)
    elif (grid := _grids(truth, predicted, rows, columns)) is not None:
        out["gain"] = _gain_of_coverage(*grid, budget)
    return out


def _recall_per_target(truth: Float64, predicted: Float64, columns: Int64) -> float | None:
    found: list[float] = []
    for column in np.unique(columns):
        here = columns == column
        if here.sum() >= MINIMUM_PER_TARGET:
            recall = recall_at_k(truth[here], predicted[here], TOP)
            found.extend([] if recall is None else [recall])
    return float(np.mean(found)) if found else None


def _gain_of_scores(exact: Float64, predicted: Float64, budget: int) -> float | None:
    best = float(top_membership(exact, budget) @ exact) / budget
    got = float(top_membership(predicted, budget) @ exact) / budget
    return _share_of_gain(got, best, float(exact.mean()))


def _gain_of_coverage(exact: Float64, predicted: Float64, budget: int) -> float | None:
    """exact, predicted [R, C]."""
    similarity = np.asarray(NonNegative.of(exact).apply(exact), np.float64)
    best = similarity[facility_location(similarity.T, budget).order].max(axis=0).sum()
    chance = _expected_coverage(similarity, budget)
    if (predicted == predicted[0]).all():
        return _share_of_gain(chance, float(best), chance)
    read = NonNegative.of(predicted).apply(predicted)
    got = similarity[facility_location(read.T, budget).order].max(axis=0).sum()
    return _share_of_gain(float(got), float(best), chance)


def _expected_coverage(similarity: Float64, budget: int) -> float:
    """E[sum_j max_{a in A} s(a, j)] over all subsets A of `budget` of the R rows, similarity [R, C].

    The m-th smallest of R values is the largest of a subset in C(m-1, k-1) of its C(R, k) draws.
    """
    n = len(similarity)
    below = np.arange(n, budget, -1)
    weights = np.cumprod(np.r_[budget / n, (below - budget) / (below - 1)])
    largest_first = -np.sort(-similarity, axis=0)[: len(weights)]
    return float((weights @ largest_first).sum())


def _share_of_gain(got: float, best: float, chance: float) -> float | None:
    """None when the best subset is no better than a random one."""
    span = best - chance
    return (got - chance) / span if span > 1e-12 * max(abs(best), abs(chance)) else None


def _grids(truth: Float64, predicted: Float64, rows: Int64, columns: Int64) -> tuple[Float64, Float64] | None:
    """Both as [R, C]; None unless the pairs are a full block."""
    names, row = np.unique(rows, return_inverse=True)
    targets, column = np.unique(columns, return_inverse=True)
    if len(truth) != len(names) * len(targets):
        return None
    out = np.full((2, len(names), len(targets)), np.nan)
    out[:, row, column] = truth, predicted
    return None if np.isnan(out).any() else (out[0], out[1])
