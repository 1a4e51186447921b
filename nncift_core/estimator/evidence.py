"""What estimators are compared on: labels dealt to folds by rows, audit pairs, and the features they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.contract import Estimator, Features
from nncift_core.estimator.metrics import spearman
from nncift_core.estimator.pair_features import Table
from nncift_core.hashing import hash_rank

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Audit = tuple[Int64, Int64, npt.NDArray[Any]]
Maker = Callable[[], Estimator]

LABEL_LIMIT = 20_000
COLUMNS_KEPT = 50
ROWS_PER_FOLD = 5
_TABLE_LIMIT = 4_000_000
# Fits of one candidate may fail without ending a run; torch.linalg raises RuntimeErrors.
FAILURES = (ValueError, RuntimeError)


@dataclass(frozen=True, eq=False)
class Evidence:
    """features: rows and columns of labels and audit only; i, j, labels [k] with fold[k] in 0..folds-1 (no
    folds: nothing to hold out); audit pairs (i, j, values) or None; told: all that in words.
    """

    features: Features
    i: Int64
    j: Int64
    labels: Float64
    fold: Int64
    folds: int
    audit: Audit | None
    told: str


def gather(
    features: Features, i: Int64, j: Int64, labels: Float64, audit: Audit | None, seed: int, folds: int
) -> Evidence:
    """The evidence of labels [k], cut to about 20,000 of them, and of the audit pairs.

    Rows are dealt to folds in the order of their content ids' hash; fewer folds when one would have under 5
    rows, but at least 2; none for a single row.
    """
    kept = _sub_block(features, i, j, seed)
    none = np.empty(0, np.int64)
    pairs = (none, none) if audit is None else audit[:2]
    small, (si, sj), (ai, aj) = compact(features, (i[kept], j[kept]), pairs)
    rows, row = np.unique(si, return_inverse=True)
    folds = max(2, min(folds, len(rows) // ROWS_PER_FOLD)) if len(rows) > 1 else 0
    dealt = np.empty(len(rows), np.int64)
    dealt[np.argsort(hash_rank(small.row_ids[rows], seed, "choice-fold"), kind="stable")] = np.arange(
        len(rows)
    )
    columns = len(np.unique(sj))
    what = f"{len(kept)} labels of {len(rows)} rows and {columns} columns"
    if len(kept) < len(i):
        what = f"a sub-block of {what} (of {len(i)} labels)"
    told = f"{what}, {folds} folds of rows" if folds else what
    if audit is None or len(ai) == 0:
        return Evidence(small, si, sj, labels[kept], dealt[row] % max(1, folds), folds, None, told)
    pairs_of_audit = (ai, aj, np.asarray(audit[2], np.float64))
    told += f", {len(ai)} audit pairs"
    return Evidence(small, si, sj, labels[kept], dealt[row] % max(1, folds), folds, pairs_of_audit, told)


def compact(
    features: Features, labels: tuple[Int64, Int64], audit: tuple[Int64, Int64]
) -> tuple[Features, tuple[Int64, Int64], tuple[Int64, Int64]]:
    """Features of the rows and columns in either set of pairs, and the pairs' positions in them.

    Pair features become tables while these are small, so that texts are not read anew in every fit.
    """
    n = len(labels[0])
    rows, i = np.unique(np.concatenate([labels[0], audit[0]]), return_inverse=True)
    columns, j = np.unique(np.concatenate([labels[1], audit[1]]), return_inverse=True)
    small = features.take(rows, columns)
    if len(rows) * len(columns) <= _TABLE_LIMIT:
        small = replace(small, pairs={name: Table(p.tile()) for name, p in small.pairs.items()})
    return small, (i[:n], j[:n]), (i[n:], j[n:])


def is_block(i: Int64, j: Int64) -> bool:
    """Whether the distinct pairs (i[k], j[k]) are all pairs of their rows and columns."""
    return len(i) == len(np.unique(i)) * len(np.unique(j))


def predicted_pairs(estimator: Estimator, features: Features, i: Int64, j: Int64) -> Float64:
    """Predictions [k] of a fitted estimator; raises ValueError when some are not finite."""
    out = np.asarray(estimator.predict_pairs(features, i, j), np.float64)
    bad = int((~np.isfinite(out)).sum())
    if bad:
        raise ValueError(f"{bad} of {len(out)} predictions are not finite")
    return out


def difference_variance(a: Float64, b: Float64) -> float:
    """Variance of spearman(truth, a) - spearman(truth, b) over n pairs: 2 (1 - rho_ab) / n.

    The difference is close to a correlation of the truth with rank(a) - rank(b), whose variance that is;
    exact for weak correlations, too wide for strong ones. A constant has rho_ab 0.
    """
    return 2 * (1 - (spearman(a, b) or 0.0)) / max(1, len(a))


def message(error: Exception) -> str:
    """What a failed fit said, with the kind of error when it said nothing."""
    return str(error) or type(error).__name__


def _sub_block(features: Features, i: Int64, j: Int64, seed: int) -> Int64:
    """Positions of the labels that are judged on: all, or about `LABEL_LIMIT` of them (`choose` says how)."""
    if len(i) <= LABEL_LIMIT:
        return np.arange(len(i))
    keep = np.ones(len(i), dtype=bool)
    if is_block(i, j):
        columns = np.unique(j)
        n = max(COLUMNS_KEPT, LABEL_LIMIT // len(np.unique(i)))
        keep &= np.isin(j, _first(columns, features.column_ids, n, seed))
    rows, counts = np.unique(i[keep], return_counts=True)
    order = np.argsort(hash_rank(features.row_ids[rows], seed, "choice-sub-block"), kind="stable")
    fits = max(2, int((np.cumsum(counts[order]) <= LABEL_LIMIT).sum()))
    keep &= np.isin(i, rows[order[:fits]])
    return np.flatnonzero(keep)


def _first(positions: Int64, ids: Int64, n: int, seed: int) -> Int64:
    """The n of `positions` whose ids have the smallest hash."""
    order = np.argsort(hash_rank(ids[positions], seed, "choice-sub-block"), kind="stable")
    out: Int64 = positions[order[:n]]
    return out
