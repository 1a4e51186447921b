"""Which pairs get exact influence: the labels, as a block or scattered, and the audit pairs.

Every choice is made by hash rank of content ids, never by position, so that the order of rows does not
matter; rows that are appended change only their proportional share of a block and of the audit (design
decision 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.label_sizes import corner
from nncift_core.hashing import hash_rank
from nncift_core.ids import Sorted

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]
Str = npt.NDArray[np.str_]

AUDIT_SHARES = {"Q2": 0.2, "Q3": 0.2, "Q4": 0.6}
STRATUM_LIMIT = 2000
COST_SAMPLE = 200
_ROWS_PER_PASS = 256
# One round of exchanges already gives nearly every pair another column.
_EXCHANGES = 5


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
    counts = [corner(len(np.unique(ids)), fraction) for ids in (row_ids, column_ids)]
    return block_of(row_ids, column_ids, counts[0], counts[1], seed)


def block_of(row_ids: Int64, column_ids: Int64, rows: int, columns: int, seed: int) -> BlockDesign:
    """The block of the `rows` and `columns` with the smallest hash rank among the distinct ids."""
    return BlockDesign(
        rows=by_rank(np.unique(row_ids), seed, "label-row")[:rows],
        columns=by_rank(np.unique(column_ids), seed, "label-column")[:columns],
    )


def scattered_pairs(row_ids: Int64, column_ids: Int64, n: int, seed: int) -> tuple[Int64, Int64]:
    """`n` random distinct pairs as (row ids [n], column ids [n]), each row and each column in equally many.

    Of M rows every one has floor(n/M) or ceil(n/M) pairs, of N columns floor(n/N) or ceil(n/N). Pair t
    starts as (t mod M, (t + floor(t / lcm(M, N))) mod N) in order of hash rank, which is balanced and
    without repetition; then random couples of pairs exchange columns wherever that gives two new pairs,
    which changes neither property. Raises ValueError unless 0 <= n <= M*N.
    """
    rows, columns = (
        by_rank(np.unique(ids), seed, salt)
        for ids, salt in ((row_ids, "label-row"), (column_ids, "label-column"))
    )
    if not 0 <= n <= len(rows) * len(columns):
        raise ValueError(f"there are {len(rows)} x {len(columns)} pairs, {n} were asked for")
    t = np.arange(n, dtype=np.int64)
    i = t % max(1, len(rows))
    j = (t + t // max(1, math.lcm(len(rows), len(columns)))) % max(1, len(columns))
    for k in range(_EXCHANGES):
        couples = np.argsort(hash_rank(t, seed, f"exchange {k}"), kind="stable")
        _exchange(i, j, couples[: n // 2], couples[n // 2 : n // 2 * 2], len(columns))
    return rows[i], columns[j]


def _exchange(i: Int64, j: Int64, a: Int64, b: Int64, n_columns: int) -> None:
    """Pairs a[k] and b[k] of (i, j) exchange their columns, in place, unless a pair would occur twice."""
    made = np.concatenate([i[a] * n_columns + j[b], i[b] * n_columns + j[a]])
    _, first, counts = np.unique(
        np.concatenate([i * n_columns + j, made]), return_inverse=True, return_counts=True
    )
    fresh = (counts == 1)[first[len(i) :]].reshape(2, -1).all(axis=0)
    a, b = a[fresh], b[fresh]
    j[a], j[b] = j[b], j[a]


def cost_sample(ids: Int64, seed: int) -> Int64:
    """At most `COST_SAMPLE` of the distinct `ids`, by hash rank: what mean costs are estimated on."""
    return by_rank(np.unique(ids), seed, "label-cost")[:COST_SAMPLE]


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
    chosen = [smallest_pairs(r, c, k, seed) for (r, c), k in zip(strata.values(), quota, strict=True)]
    return np.concatenate([r for r, _ in chosen]), np.concatenate([c for _, c in chosen])


def audit_unlabelled(
    row_ids: Int64, column_ids: Int64, label_rows: Int64, label_columns: Int64, n: int, seed: int
) -> tuple[Int64, Int64]:
    """`n` random pairs that are none of the labelled pairs (label_rows[k], label_columns[k]), by pair hash.

    Taken among at most 2,000 rows and 2,000 columns of smallest hash rank, as (row ids [k], column ids [k]);
    k < n only when these hold fewer pairs without a label. Raises ValueError when n < 0.
    """
    if n < 0:
        raise ValueError(f"n must not be negative, got {n}")
    rows = by_rank(np.unique(row_ids), seed, "audit-row")[:STRATUM_LIMIT]
    columns = by_rank(np.unique(column_ids), seed, "audit-column")[:STRATUM_LIMIT]
    taken = np.zeros((len(rows), len(columns)), np.bool_)
    i, j = positions(rows, label_rows), positions(columns, label_columns)
    inside = (i >= 0) & (j >= 0)
    taken[i[inside], j[inside]] = True
    return smallest_pairs(rows, columns, min(n, int((~taken).sum())), seed, taken)


def positions(ids: Int64, wanted: Int64) -> Int64:
    """Index into the distinct `ids` [n] of each of `wanted` [k]; -1 where it is not among them."""
    return Sorted(ids).find(wanted)


def pairs_isin(rows: Int64, columns: Int64, of_rows: Int64, of_columns: Int64) -> Bool:
    """Whether each pair (rows[k], columns[k]) is one of (of_rows[n], of_columns[n]); bool [k]."""
    row_ids, column_ids = np.unique(of_rows), np.unique(of_columns)
    i, j = positions(row_ids, rows), positions(column_ids, columns)
    of = positions(row_ids, of_rows) * len(column_ids) + positions(column_ids, of_columns)
    found: Bool = (i >= 0) & (j >= 0) & np.isin(i * len(column_ids) + j, of)
    return found


def quadrant(labelled_row: Bool, labelled_column: Bool) -> Str:
    """Quadrant of each pair [n] from whether its row and its column are labelled.

    Q1 = both, Q2 = labelled row x other column, Q3 = other row x labelled column, Q4 = neither.
    """
    names = np.array(["Q1", "Q2", "Q3", "Q4"])
    index = 2 * (~np.asarray(labelled_row, dtype=bool)) + (~np.asarray(labelled_column, dtype=bool))
    out: Str = names[index]
    return out


def by_rank(ids: Int64, seed: int, salt: str) -> Int64:
    """`ids` [n] by their hash ranks (`hashing.hash_rank` with `seed` and `salt`), the smallest first.

    Where a draw takes the first of them, ids that come or go change it little.
    """
    out: Int64 = ids[np.argsort(hash_rank(ids, seed, salt), kind="stable")]
    return out


def _split(ids: Int64, labelled: Int64, seed: int, salt: str) -> tuple[Int64, Int64]:
    """Labelled and other ids, each cut to the `STRATUM_LIMIT` of smallest hash rank."""
    ranked = by_rank(np.unique(ids), seed, salt)
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


def smallest_pairs(
    rows: Int64, columns: Int64, n: int, seed: int, taken: Bool | None = None
) -> tuple[Int64, Int64]:
    """The n pairs of smallest pair hash but those `taken` [R, C], in hash order; some rows at a time."""
    best_hash: UInt64 = np.empty(0, dtype=np.uint64)
    best_row: Int64 = np.empty(0, dtype=np.int64)
    best_column: Int64 = np.empty(0, dtype=np.int64)
    if n == 0:
        return best_row, best_column
    for start in range(0, len(rows), _ROWS_PER_PASS):
        part = rows[start : start + _ROWS_PER_PASS]
        hashes = hash_rank(part[:, None], seed, "audit-pair", columns[None, :])
        if taken is not None:
            hashes[taken[start : start + len(part)]] = np.iinfo(np.uint64).max
        hashes = hashes.ravel()
        near = np.argpartition(hashes, n - 1)[:n] if n < len(hashes) else np.arange(len(hashes))
        row, column = np.divmod(near, len(columns))
        best_hash = np.concatenate([best_hash, hashes[near]])
        best_row = np.concatenate([best_row, part[row]])
        best_column = np.concatenate([best_column, columns[column]])
        keep = np.lexsort((best_column, best_row, best_hash))[:n]
        best_hash, best_row, best_column = best_hash[keep], best_row[keep], best_column[keep]
    return best_row, best_column
