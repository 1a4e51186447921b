"""Which pairs get exact influence: the labelled block (Q1) and the scattered audit pairs.

Every choice is made by hash rank of content ids, never by position, so that the order of rows does not
matter and appended rows change only their proportional share of the choice (design decision 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.hashing import hash_rank

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Str = npt.NDArray[np.str_]

AUDIT_SHARES = {"Q2": 0.2, "Q3": 0.2, "Q4": 0.6}
STRATUM_LIMIT = 2000
_ROWS_PER_PASS = 256


@dataclass(frozen=True)
class BlockDesign:
    """The labelled block: rows [R] and columns [C] as content ids, in order of hash rank."""

    rows: Int64
    columns: Int64


def block_design(row_ids: Int64, column_ids: Int64, fraction: float, seed: int) -> BlockDesign:
    """The u x u corner that is labelled (methods.md 1, step 1).

    Of the M distinct `row_ids` the ceil(u*M) with the smallest hash rank (at least min(2, M)), and
    likewise of the N distinct `column_ids`. Raises ValueError when u = `fraction` is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    return BlockDesign(
        rows=_fraction_by_rank(row_ids, fraction, seed, "label-row"),
        columns=_fraction_by_rank(column_ids, fraction, seed, "label-column"),
    )


def label_counts(n_rows: int, n_columns: int, fraction: float) -> tuple[int, int]:
    """Labelled rows and columns of a block design at fraction u (as `block_design` draws them)."""
    ids = [np.arange(n, dtype=np.int64) for n in (n_rows, n_columns)]
    design = block_design(ids[0], ids[1], fraction, 0)
    return len(design.rows), len(design.columns)


def labels_everything(n_rows: int, n_columns: int, fraction: float) -> bool:
    """Whether a block design at fraction u leaves no pair: u = 1, or next to no rows and columns."""
    return fraction >= 1 or label_counts(n_rows, n_columns, fraction) == (n_rows, n_columns)


def audit_pairs(
    row_ids: Int64, column_ids: Int64, design: BlockDesign, n: int, seed: int
) -> tuple[Int64, Int64]:
    """`n` scattered pairs outside the labelled block, as (row ids [k], column ids [k]).

    Shares: Q2 20 %, Q3 20 %, Q4 60 %; what a stratum cannot fill goes to the others, and k < n only
    when the strata hold fewer pairs. In each stratum the pairs of smallest pair hash are taken among
    at most 2,000 rows and 2,000 columns of smallest hash rank, so large matrices are never enumerated.
    Order: Q2, Q3, Q4, each by pair hash. Raises ValueError when n < 0.
    """
    if n < 0:
        raise ValueError(f"n must not be negative, got {n}")
    labelled_rows, other_rows = _split(row_ids, design.rows, seed, "audit-row")
    labelled_columns, other_columns = _split(column_ids, design.columns, seed, "audit-column")
    strata = {
        "Q2": (labelled_rows, other_columns),
        "Q3": (other_rows, labelled_columns),
        "Q4": (other_rows, other_columns),
    }
    capacity = [len(r) * len(c) for r, c in strata.values()]
    quota = _allocate(n, [AUDIT_SHARES[q] for q in strata], capacity)
    chosen = [_smallest_pairs(r, c, k, seed) for (r, c), k in zip(strata.values(), quota, strict=True)]
    return np.concatenate([r for r, _ in chosen]), np.concatenate([c for _, c in chosen])


def quadrant(labelled_row: Bool, labelled_column: Bool) -> Str:
    """Quadrant of each pair [n] from whether its row and its column are labelled.

    Q1 = both, Q2 = labelled row x other column, Q3 = other row x labelled column, Q4 = neither.
    """
    names = np.array(["Q1", "Q2", "Q3", "Q4"])
    index = 2 * (~np.asarray(labelled_row, dtype=bool)) + (~np.asarray(labelled_column, dtype=bool))
    out: Str = names[index]
    return out


def _fraction_by_rank(ids: Int64, fraction: float, seed: int, salt: str) -> Int64:
    ids = np.unique(ids)
    # 0.07 * 100 is 7.000000000000001: the small step back keeps the ceiling at 7.
    count = max(math.ceil(fraction * len(ids) - 1e-9), min(2, len(ids)))
    return _by_rank(ids, seed, salt)[:count]


def _by_rank(ids: Int64, seed: int, salt: str) -> Int64:
    out: Int64 = ids[np.argsort(hash_rank(ids, seed, salt), kind="stable")]
    return out


def _split(ids: Int64, labelled: Int64, seed: int, salt: str) -> tuple[Int64, Int64]:
    """Labelled and other ids, each cut to the `STRATUM_LIMIT` of smallest hash rank."""
    ranked = _by_rank(np.unique(ids), seed, salt)
    is_labelled = np.isin(ranked, labelled)
    return ranked[is_labelled][:STRATUM_LIMIT], ranked[~is_labelled][:STRATUM_LIMIT]


def _allocate(n: int, shares: Sequence[float], capacity: Sequence[int]) -> list[int]:
    """Split n by `shares` (largest remainder) with no part above its capacity."""
    quota = [0] * len(shares)
    left = min(n, sum(capacity))
    while left:
        unfilled = [s for s in range(len(shares)) if quota[s] < capacity[s]]
        total = sum(shares[s] for s in unfilled)
        exact = {s: left * shares[s] / total for s in unfilled}
        part = {s: int(exact[s] + 1e-9) for s in unfilled}
        by_remainder = sorted(unfilled, key=lambda s: (part[s] - exact[s], s))
        for s in by_remainder[: left - sum(part.values())]:
            part[s] += 1
        for s in unfilled:
            taken = min(part[s], capacity[s] - quota[s])
            quota[s] += taken
            left -= taken
    return quota


def _smallest_pairs(rows: Int64, columns: Int64, n: int, seed: int) -> tuple[Int64, Int64]:
    """The n pairs of smallest pair hash, in hash order; a few hundred rows at a time."""
    best_hash = np.empty(0, dtype=np.uint64)
    best_row: Int64 = np.empty(0, dtype=np.int64)
    best_column: Int64 = np.empty(0, dtype=np.int64)
    if n == 0:
        return best_row, best_column
    for start in range(0, len(rows), _ROWS_PER_PASS):
        part = rows[start : start + _ROWS_PER_PASS]
        hashes = hash_rank(part[:, None], seed, "audit-pair", columns[None, :]).ravel()
        near = np.argpartition(hashes, n - 1)[:n] if n < len(hashes) else np.arange(len(hashes))
        row, column = np.divmod(near, len(columns))
        best_hash = np.concatenate([best_hash, hashes[near]])
        best_row = np.concatenate([best_row, part[row]])
        best_column = np.concatenate([best_column, columns[column]])
        keep = np.lexsort((best_column, best_row, best_hash))[:n]
        best_hash, best_row, best_column = best_hash[keep], best_row[keep], best_column[keep]
    return best_row, best_column
