"""Shards of exact values: what one task computes, what of it is missing, and its values once stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nncift_core.store.segments import SegmentStore

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Layout = Literal["tile", "pairs"]
Purpose = Literal["label", "audit", "refine"]

# Cells of the matrix that a look-up of scattered pairs holds at once.
_CELLS = 1 << 24


@dataclass(frozen=True)
class ExactShard:
    """Work of one task: rows x columns ("tile"), or single pairs (rows[k], columns[k]) ("pairs")."""

    name: str
    layout: Layout
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    pairs: int
    missing: int
    purpose: Purpose


def tile_shard(store: SegmentStore, name: str, rows: Int64, columns: Int64, purpose: Purpose) -> ExactShard:
    """The shard of rows [r] x columns [c], and how many of its values are not stored yet."""
    missing = store.missing(rows, columns)
    pairs = len(rows) * len(columns)
    return ExactShard(name, "tile", tuple(rows.tolist()), tuple(columns.tolist()), pairs, missing, purpose)


def pair_shard(store: SegmentStore, name: str, rows: Int64, columns: Int64, purpose: Purpose) -> ExactShard:
    """The shard of the pairs (rows[k], columns[k]), and how many of its values are not stored yet."""
    missing = int(np.isnan(stored_values(store, rows, columns)).sum())
    return ExactShard(
        name, "pairs", tuple(rows.tolist()), tuple(columns.tolist()), len(rows), missing, purpose
    )


def exact_values(
    store: SegmentStore, shards: Sequence[ExactShard], purpose: Purpose
) -> tuple[Int64, Int64, Float32]:
    """Stored values of all shards of one purpose as rows [k], columns [k], values [k], NaN if missing."""
    chosen = [s for s in shards if s.purpose == purpose]
    rows, columns = pairs_of(chosen)
    values = [np.empty(0, np.float32)]
    for s in chosen:
        r, k = np.array(s.rows, np.int64), np.array(s.columns, np.int64)
        if s.layout == "pairs":
            values.append(stored_values(store, r, k))
        else:
            out = np.full((len(r), len(k)), np.nan, np.float32)
            store.fill(r, k, out)
            values.append(out.ravel())
    return rows, columns, np.concatenate(values)


def stored_values(store: SegmentStore, rows: Int64, columns: Int64) -> Float32:
    """Stored values of the pairs (rows[k], columns[k]), NaN where there is none: [k].

    Reads every tile that the pairs meet once, however many of them it holds.
    """
    out = np.full(len(rows), np.nan, np.float32)
    row_ids, i = np.unique(rows, return_inverse=True)
    column_ids, j = np.unique(columns, return_inverse=True)
    step = max(1, _CELLS // max(1, len(column_ids)))
    for start in range(0, len(row_ids), step):
        part = row_ids[start : start + step]
        block = np.full((len(part), len(column_ids)), np.nan, np.float32)
        store.fill(part, column_ids, block)
        inside = np.flatnonzero((i >= start) & (i < start + step))
        out[inside] = block[i[inside] - start, j[inside]]
    return out


def pairs_of(shards: Sequence[ExactShard]) -> tuple[Int64, Int64]:
    """Every pair of the shards, tiles row by row: rows [k], columns [k]."""
    rows, columns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for s in shards:
        r, k = np.array(s.rows, np.int64), np.array(s.columns, np.int64)
        tile = s.layout == "tile"
        rows.append(np.repeat(r, len(k)) if tile else r)
        columns.append(np.tile(k, len(r)) if tile else k)
    return np.concatenate(rows), np.concatenate(columns)


def pieces(ids: Int64, size: int) -> Iterator[slice]:
    """Slices of at most `size` that end where `ids` changes; a longer run of one id stays whole."""
    ends = np.append(np.flatnonzero(ids[1:] != ids[:-1]) + 1, len(ids))
    start = 0
    while start < len(ids):
        last, following = np.searchsorted(ends, [start + size, start], "right")
        stop = int(ends[max(last - 1, following)])
        yield slice(start, stop)
        start = stop
