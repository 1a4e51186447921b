"""Which pairs audit the estimates: some over the whole matrix, and in a refresh some over what is new."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nncift_core.config import Config
from nncift_core.estimator.label_growth import touching_pairs
from nncift_core.estimator.labels import BlockDesign, audit_pairs, audit_unlabelled, pairs_isin
from nncift_core.pipeline.problem import Problem
from nncift_core.store.designs import StoredDesign

Int64 = npt.NDArray[np.int64]


def audit_size(config: Config, n_rows: int, n_columns: int, labelled: int) -> int:
    """Audit pairs of a run; of a pointwise function at most half of what is not labelled, for pairs are rows
    there, and an audit of all of them would leave nothing to estimate."""
    left = n_rows * n_columns - labelled
    return min(config.influence.audit_pairs, left // 2 if config.pointwise else left)


def audit_of(problem: Problem, design: StoredDesign, labelled: int) -> tuple[Int64, Int64]:
    """All audit pairs of a run whose design has `labelled` pairs: rows [k] and columns [k], the ordinary
    audit, then what a refresh adds."""
    rows, columns, seed = problem.rows, problem.columns, problem.config.seed
    n = 0 if problem.all_exact else audit_size(problem.config, len(rows), len(columns), labelled)
    if not n and problem.refresh is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    if design.kind == "scattered":
        found = audit_unlabelled(rows, columns, design.pair_rows, design.pair_columns, n, seed)
    else:
        labels = BlockDesign(rows=design.label_rows, columns=design.label_columns)
        found = audit_pairs(rows, columns, labels, n, seed)
    if problem.refresh is None:
        return found
    more = batch_audit(problem, design)
    fresh = ~pairs_isin(*more, *found)
    return np.concatenate([found[0], more[0][fresh]]), np.concatenate([found[1], more[1][fresh]])


def batch_audit(problem: Problem, design: StoredDesign) -> tuple[Int64, Int64]:
    """The audit pairs of a refresh: of the unlabelled pairs that touch what the earlier run lacked, those of
    smallest pair hash, as (row ids [k], column ids [k]). Of a pointwise function at most half of them."""
    if problem.refresh is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    found = touching_pairs(
        problem.rows,
        problem.columns,
        *problem.known,
        lambda r, k: labelled_pairs(design, r, k),
        problem.refresh.audit_pairs,
        problem.config.seed,
    )
    if not problem.config.pointwise:
        return found
    left = int((~np.isin(problem.rows, np.union1d(problem.known[0], design.label_rows))).sum()) // 2
    return found[0][:left], found[1][:left]


def labelled_pairs(design: StoredDesign, rows: Int64, columns: Int64) -> npt.NDArray[np.bool_]:
    """Whether each pair (rows[k], columns[k]) is a label of `design`: [k]."""
    if design.kind == "scattered":
        return pairs_isin(rows, columns, design.pair_rows, design.pair_columns)
    return np.isin(rows, design.label_rows) & np.isin(columns, design.label_columns)
