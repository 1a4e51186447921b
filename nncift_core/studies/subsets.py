"""How good a subset is that was selected on predicted influence, measured on the exact matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.hashing import hash_rank
from nncift_core.influence.contract import mean_by_task
from nncift_core.selection import RULES, NonNegative

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

STUDIED = ("top-k", "fl", "flmi")


def selection_share(
    exact: npt.NDArray[Any],
    predicted: npt.NDArray[Any],
    rule: str,
    v: float,
    exact_mask: Bool,
    *,
    tasks: Int64 | None = None,
    eta: float = 1.0,
) -> tuple[float | None, float]:
    """(share of the exact-over-random gain, Jaccard overlap with the exact subset) of a share v of the rows.

    A is selected by `rule` on the completed matrix (`exact` where `exact_mask`, else `predicted`, all
    [M, N]), B on `exact`. With f the rule's objective on the exact matrix,
    `share = (f(A) - E f(R)) / (f(B) - E f(R))`, R a uniformly random subset of that size; 1 minus it is
    the regret. The expectation is exact, not drawn. None where B gains nothing over random rows.
    tasks [N]: task number of each column, for the scores of "top-k" (default: one task); eta: as in "flmi".
    Raises ValueError for an unknown rule, shapes that differ and numbers that are not finite.
    """
    if rule not in STUDIED:
        raise ValueError(f"no study of the rule {rule!r}; there are {', '.join(STUDIED)}")
    if not exact.shape == predicted.shape == exact_mask.shape or exact.ndim != 2:
        shapes = [list(x.shape) for x in (exact, predicted, exact_mask)]
        raise ValueError(f"exact, predicted and exact_mask must be of one shape [M, N], got {shapes}")
    budget = max(1, min(len(exact), round(v * len(exact))))
    groups = np.zeros(exact.shape[1], np.int64) if tasks is None else tasks
    completed = np.where(exact_mask, exact, predicted).astype(np.float32)
    ours = _select(completed, rule, budget, groups, eta)
    best = _select(exact.astype(np.float32), rule, budget, groups, eta)
    objective = _Objective(exact, rule, groups, eta)
    random = objective.of_random(budget)
    gain = objective.of(best) - random
    share = (objective.of(ours) - random) / gain if gain > 1e-9 * max(1.0, abs(random)) else None
    both = len(np.intersect1d(ours, best))
    return share, both / (2 * budget - both)


def _select(matrix: npt.NDArray[np.float32], rule: str, budget: int, tasks: Int64, eta: float) -> Int64:
    """Rows [budget] that the rule takes from influence [M, N]; of equal scores by hash, as a run does."""
    if rule == "top-k":
        ranks = hash_rank(np.arange(len(matrix)), 0, "tie")
        scores = mean_by_task(matrix, tasks).max(axis=1)
        return RULES["top-k"].select(scores, budget, ranks).order
    scaled = NonNegative.of(matrix).apply(matrix)
    if rule == "fl":
        return RULES["fl"].select(scaled.T, budget).order
    return RULES["flmi"].select(scaled.T, budget, eta=eta).order


class _Objective:
    """What a rule maximises: a sum over columns of maxima over the subset, plus a sum over its rows."""

    def __init__(self, exact: npt.NDArray[Any], rule: str, tasks: Int64, eta: float) -> None:
        if rule == "top-k":
            self.cover: Float64 = np.zeros((len(exact), 0))
            self.own: Float64 = mean_by_task(exact.astype(np.float32), tasks).max(axis=1).astype(np.float64)
            return
        self.cover = exact.astype(np.float64)
        NonNegative.of(self.cover).apply(self.cover, self.cover)
        self.own = eta * self.cover.max(axis=1) if rule == "flmi" else np.zeros(len(exact))

    def of(self, rows: Int64) -> float:
        """f of the rows [k]."""
        return float(self.cover[rows].max(axis=0).sum() + self.own[rows].sum())

    def of_random(self, budget: int) -> float:
        """Expected f of `budget` rows drawn without replacement."""
        covered = maximum_weights(len(self.cover), budget) @ np.sort(self.cover, axis=0)
        return float(covered.sum() + budget * self.own.mean())


def maximum_weights(n: int, k: int) -> Float64:
    """Weights [n] with which the ascending order statistics of n numbers make up the mean maximum of k.

    P(the largest of k drawn without replacement is the r-th smallest of n) = C(r-1, k-1) / C(n, k).
    """
    r = np.arange(n, 1, -1)
    falling = np.clip((r - k) / (r - 1), 0, None)
    out: Float64 = np.empty(n)
    out[::-1] = k / n * np.cumprod(np.r_[1.0, falling])
    return out
