"""Labels of the kernel estimator in order of ids, and its hyperparameters from a part of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nncift_core.estimator.contract import Features, Float64, Int64
from nncift_core.estimator.kernel_block import BlockLikelihood
from nncift_core.estimator.kernel_pairs import PairLikelihood, Pairs
from nncift_core.estimator.kernel_search import Hyper, search
from nncift_core.estimator.kernel_sides import Scaled
from nncift_core.estimator.kernel_thin import Linear
from nncift_core.hashing import hash_rank

SEARCH_ROWS, SEARCH_COLUMNS = 150, 50
SEARCH_PAIRS, PAIRS_PER_LINE = 600, 8


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels by distinct rows and columns in order of their ids: rows [R], columns [C] are positions in the
    features; pairs, without duplicates, in order of (row, column); shift and scale of the labels."""

    rows: Int64
    columns: Int64
    row_ids: Int64
    column_ids: Int64
    pairs: Pairs
    linear: Linear
    shift: float
    scale: float

    @property
    def is_block(self) -> bool:
        """Whether every labelled row has a label with every labelled column."""
        return len(self.pairs.y) == len(self.rows) * len(self.columns)

    def block(self) -> Float64:
        """[1 + p, R, C]: standardised labels, then pair features."""
        stacked = np.concatenate([self.pairs.y[None], self.pairs.F])
        return stacked.reshape(len(stacked), len(self.rows), len(self.columns))


def labels_of(features: Features, i: Int64, j: Int64, z: Float64) -> Labels:
    """Distinct rows, columns and pairs of the labels z [k]; equal pairs are averaged.

    Raises ValueError for pair features that are not finite.
    """
    row_ids, row_at, r = np.unique(features.row_ids[i], return_index=True, return_inverse=True)
    column_ids, column_at, c = np.unique(features.column_ids[j], return_index=True, return_inverse=True)
    rows, columns = i[row_at], j[column_at]
    key, inverse, count = np.unique(r * len(columns) + c, return_inverse=True, return_counts=True)
    y = np.bincount(inverse, z) / count
    shift, scale = float(y.mean()), float(y.std())
    # A spread that is the rounding of the mean is none.
    scale = scale if scale > 1e-12 * abs(shift) else 0.0
    r, c = np.divmod(key, len(columns))
    names = tuple(features.pairs)
    f = features.pair_values(names, rows[r], columns[c]).astype(np.float64).T
    if not np.isfinite(f).all():
        raise ValueError("pair features of the labels are not finite")
    mean, sd = f.mean(axis=1), f.std(axis=1)
    sd = np.where(sd > 0, sd, 1.0)
    linear = Linear(names, mean, sd, np.zeros(len(names)))
    pairs = Pairs(r, c, (y - shift) / (scale or 1.0), (f - mean[:, None]) / sd[:, None])
    return Labels(rows, columns, row_ids, column_ids, pairs, linear, shift, scale)


def hyperparameters(
    labels: Labels, rows: Scaled, columns: Scaled, seed: int, start: Hyper | None = None
) -> Hyper:
    """By marginal likelihood of a sub-block or of a subsample of pairs, searched from `start` if given."""
    pairs = labels.pairs
    if labels.is_block:
        block, of_rows, of_columns = sub_block(labels, rows, columns, seed)
        objective: BlockLikelihood | PairLikelihood = BlockLikelihood(block, of_rows, of_columns)
        _, n_rows, n_columns = block.shape
    else:
        few = pairs.take(_few_pairs(labels, seed))
        r, of_row = np.unique(few.r, return_inverse=True)
        c, of_column = np.unique(few.c, return_inverse=True)
        few = Pairs(of_row, of_column, few.y, few.F)
        objective = PairLikelihood(few, rows.distances(r), columns.distances(c))
        n_rows, n_columns = len(r), len(c)
    # One column alone cannot tell a row's own effect from noise, nor one row a column's.
    own = (n_columns > 1, n_rows > 1)
    return search(objective, (len(rows.names), len(columns.names)), len(pairs.F), own, start)


def sub_block(labels: Labels, rows: Scaled, columns: Scaled, seed: int) -> tuple[Float64, Float64, Float64]:
    """At most 150 x 50 of a block's labels by hash rank: [1 + p, R, C] as `Labels.block`, distances of their
    rows [groups, R, R] and columns [groups, C, C]."""
    r = drawn(labels.row_ids, seed, SEARCH_ROWS)
    c = drawn(labels.column_ids, seed, SEARCH_COLUMNS)
    block = np.ascontiguousarray(labels.block()[:, r][:, :, c])
    return block, rows.distances(r), columns.distances(c)


def _few_pairs(labels: Labels, seed: int) -> Int64:
    """Positions of about `SEARCH_PAIRS` pairs: half of them along columns and half along rows.

    Lines of up to `PAIRS_PER_LINE` pairs tell what a column or a row has in common; pairs at random from
    a large matrix would share neither.
    """
    pairs = labels.pairs
    rank = hash_rank(labels.row_ids[pairs.r], seed, "kernel-pair", labels.column_ids[pairs.c])
    if len(rank) <= SEARCH_PAIRS:
        return np.arange(len(rank))
    chosen: list[Int64] = []
    for line, ids in ((pairs.c, labels.column_ids), (pairs.r, labels.row_ids)):
        order = np.lexsort((rank, hash_rank(ids, seed, "kernel-line")[line]))
        of = line[order]
        first = np.flatnonzero(np.r_[True, of[1:] != of[:-1]])
        place = np.arange(len(of)) - np.repeat(first, np.diff(np.r_[first, len(of)]))
        chosen.append(order[place < PAIRS_PER_LINE][: SEARCH_PAIRS // 2])
    return np.unique(np.concatenate(chosen))


def drawn(ids: Int64, seed: int, limit: int) -> Int64:
    """Positions of at most `limit` of the ids, by hash rank, in order."""
    return np.sort(np.argsort(hash_rank(ids, seed, "kernel-item"), kind="stable")[:limit])
