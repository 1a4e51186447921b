"""Exact pairs for rows and columns that came later: an audit of them, and labels added to a design.

Like the first draw, all of it is by hash rank of content ids, so that order does not matter and the same data
always gives the same pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.labels import STRATUM_LIMIT, by_rank, scattered_pairs, smallest_pairs
from nncift_core.hashing import hash_rank

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


def touching_pairs(
    rows: Int64,
    columns: Int64,
    known_rows: Int64,
    known_columns: Int64,
    labelled: Callable[[Int64, Int64], Bool],
    n: int,
    seed: int,
) -> tuple[Int64, Int64]:
    """At most `n` unlabelled pairs whose row or column is not known, by pair hash: rows [k], columns [k].

    rows, columns: distinct content ids of the matrix; labelled: which of the pairs (r[k], c[k]) are labels.
    Of rows and columns, known and new, the 2,000 of smallest hash rank each stand for all. These are the
    pairs that an audit of that size over them alone would draw, so a larger ordinary audit holds them.
    """
    new_rows, old_rows = _parted(rows, known_rows, seed, "audit-row")
    new_columns, old_columns = _parted(columns, known_columns, seed, "audit-column")
    both = np.concatenate([new_columns, old_columns])
    found = [_unlabelled(r, c, labelled, n, seed) for r, c in ((new_rows, both), (old_rows, new_columns))]
    r, c = (np.concatenate([part[side] for part in found]) for side in (0, 1))
    order = np.lexsort((c, r, hash_rank(r, seed, "audit-pair", c)))[:n]
    return r[order], c[order]


def _parted(ids: Int64, known: Int64, seed: int, salt: str) -> tuple[Int64, Int64]:
    """New and known ids, each cut to the `STRATUM_LIMIT` of smallest hash rank."""
    ranked = by_rank(np.unique(ids), seed, salt)
    is_known = np.isin(ranked, known)
    return ranked[~is_known][:STRATUM_LIMIT], ranked[is_known][:STRATUM_LIMIT]


def _unlabelled(
    rows: Int64, columns: Int64, labelled: Callable[[Int64, Int64], Bool], n: int, seed: int
) -> tuple[Int64, Int64]:
    r, c = np.repeat(rows, len(columns)), np.tile(columns, len(rows))
    taken = labelled(r, c).reshape(len(rows), len(columns))
    return smallest_pairs(rows, columns, min(n, int((~taken).sum())), seed, taken)


def added_block(
    new: tuple[Int64, Int64],
    labelled: tuple[Int64, Int64],
    shares: tuple[float, float],
    minimum: int,
    seed: int,
) -> tuple[Int64, Int64]:
    """New rows and columns that join a labelled block, by the hash rank of its first draw.

    new: rows and columns that the design did not know; labelled: rows [R] and columns [C] of it that are
    there; shares: of all rows and of all columns that it labelled. Of each side as large a share as it
    labelled, and more of the new rows, then of the new columns, where that adds fewer than `minimum` pairs.
    """
    counts = [math.ceil(share * len(ids) - 1e-9) for share, ids in zip(shares, new, strict=True)]
    sizes = [len(ids) for ids in labelled]
    for side in (0, 1):
        other = sizes[1 - side] + counts[1 - side]
        pairs = (sizes[0] + counts[0]) * (sizes[1] + counts[1]) - sizes[0] * sizes[1]
        if pairs < minimum and other:
            counts[side] += math.ceil((minimum - pairs) / other)
        counts[side] = min(counts[side], len(new[side]))
    return (
        by_rank(np.unique(new[0]), seed, "label-row")[: counts[0]],
        by_rank(np.unique(new[1]), seed, "label-column")[: counts[1]],
    )


def added_pairs(
    new: tuple[Int64, Int64], old: tuple[Int64, Int64], density: float, minimum: int, seed: int
) -> tuple[Int64, Int64]:
    """Scattered labels among the pairs that touch a new row or a new column: rows [n], columns [n].

    new, old: rows and columns that the design did not know, and those it did. n = `density` times the number
    of such pairs, at least `minimum` where there are as many; new rows x all columns and known rows x new
    columns get their shares, each drawn as the first labels were.
    """
    columns = np.concatenate(new[1:] + old[1:])
    sizes = [len(new[0]) * len(columns), len(old[0]) * len(new[1])]
    total = sum(sizes)
    n = min(total, max(minimum, round(density * total)))
    first = min(sizes[0], round(n * sizes[0] / total)) if total else 0
    parts = [
        scattered_pairs(new[0], columns, first, seed),
        scattered_pairs(old[0], new[1], n - first, seed),
    ]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
