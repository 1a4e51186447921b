"""Exact where it matters: exact values for the rows nearest the edge of the subset, bought in rounds.

Between rounds the subset is chosen anew; a round that moves nothing, or an empty purse, ends it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.hashing import hash_rank
from nncift_core.pipeline.exact import LABEL_SHARD, ExactPlan, ExactShard
from nncift_core.pipeline.exact_shards import tile_shard
from nncift_core.pipeline.problem import Problem

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

# Candidates whose missing values are counted at once.
_LOOK = 256


def boundary_rows(scores: Float32, std: float | Float64, budget: int, exact: Bool, order: Int64) -> Int64:
    """Rows that may lie on the wrong side of the selection's edge, likeliest first: indices [<= budget].

    P_i = Phi(-|s_i - edge| / std_i), edge = the lowest score among the chosen rows `order` [k]; rows come
    by decreasing P, which is increasing |s_i - edge| / std_i. scores [M]; std: of a score's error, one number
    or [M]; exact [M]: rows that are known and never asked for. Facility location chooses by coverage, not by
    score: there the edge is a stand-in, and rows near it are those whose choice is hardest to foresee.
    Nothing is near an edge that is not there: no rows when none or all are chosen.
    """
    if not 0 < len(order) < len(scores):
        return np.empty(0, np.int64)
    edge = float(scores[order].min())
    gap = np.abs(scores.astype(np.float64) - edge)
    with np.errstate(divide="ignore", invalid="ignore"):
        # A score without error lies where it lies, and on the edge itself as far on one side as on the other.
        distance = np.where(gap > 0, gap / std, 0.0)
    ranked = np.argsort(distance, kind="stable")
    found: Int64 = ranked[~exact[ranked]][:budget]
    return found


def plan_refine(
    problem: Problem,
    plan: ExactPlan,
    scores: Float32,
    order: Int64,
    exact: Bool,
    left: int,
    std: float | Float64 = 1.0,
) -> tuple[ExactShard, ...]:
    """The next round: shards (purpose "refine") of the boundary rows against every column.

    scores [M], exact [M] of the pool's rows, order [k]: chosen ones, best first. A round may buy `left`
    pairs, and no more than ceil(refine_pairs / refine_rounds); stored values cost nothing, and the last row
    gets as many of its columns, by hash rank, as the round can still pay. Raises ValueError while labels or
    audit of `plan` are missing, which would be paid twice.
    """
    if plan.missing:
        raise ValueError(f"{plan.missing} exact values of labels and audit are missing: they come first")
    influence = problem.config.influence
    purse = min(left, math.ceil(influence.refine_pairs / influence.refine_rounds))
    ranked = boundary_rows(scores, std, len(scores), exact, order)
    contents = problem.pool.content_ids[ranked]
    # Rows with the same text share their values: the first of them stands for all.
    contents = contents[np.sort(np.unique(contents, return_index=True)[1])]
    whole, part = _affordable(problem, contents, purse)
    step = max(1, LABEL_SHARD // len(problem.columns))
    shards = [
        tile_shard(problem.exact_store, f"refine {k // step}", whole[k : k + step], problem.columns, "refine")
        for k in range(0, len(whole), step)
    ]
    if part is not None:
        shards.append(tile_shard(problem.exact_store, f"refine {len(shards)}", *part, "refine"))
    return tuple(s for s in shards if s.missing)


def _affordable(problem: Problem, contents: Int64, purse: int) -> tuple[Int64, tuple[Int64, Int64] | None]:
    """The first of `contents` whose missing values `purse` pays, and the next one with some columns."""
    bought: list[int] = []
    for start in range(0, len(contents), _LOOK):
        rows = contents[start : start + _LOOK]
        missing = ~problem.exact_store.coverage(rows, problem.columns)
        for row, lacking in zip(rows, missing, strict=True):
            n = int(lacking.sum())
            if n > purse:
                columns = problem.columns[lacking]
                ranked = np.argsort(hash_rank(columns, problem.config.seed, "refine-column"), kind="stable")
                part = (np.array([row]), columns[ranked[:purse]]) if purse else None
                return np.array(bought, np.int64), part
            bought += [int(row)] if n else []
            purse -= n
    return np.array(bought, np.int64), None


def moved(before: Int64, after: Int64) -> dict[str, Any]:
    """How a subset changed: rows that `entered` and `left`, and `jaccard` = |both| / |either|, 1 if empty."""
    both, either = len(np.intersect1d(before, after)), len(np.union1d(before, after))
    entered, left = len(np.unique(after)) - both, len(np.unique(before)) - both
    return {"entered": entered, "left": left, "jaccard": both / either if either else 1.0}
