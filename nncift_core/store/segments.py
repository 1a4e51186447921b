"""Influence values by content pair: block tiles and scattered pairs behind one interface.

A segment is a Parquet file of (row_content, column_content, value). A tile holds the full product of
its row and column contents, row by row; scattered segments hold single pairs. One `SegmentStore` per
function key (exact values) or estimator key (estimates); planning is an anti-join on `coverage`.
"""

from __future__ import annotations

import base64
import threading
from collections import defaultdict
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.hashing import digest
from nncift_core.store.files import publish
from nncift_core.store.remote.mirrors import bring, each, here
from nncift_core.store.segment_index import PairIndex, Segment, TileIndex
from nncift_core.store.shards import Signature, read_checked, read_footer, readable, signature
from nncift_core.store.workspace import Workspace

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

SCHEMA = pa.schema([("row_content", pa.int64()), ("column_content", pa.int64()), ("value", pa.float32())])
ROW_GROUP = 262_144


class SegmentStore:
    """All segments under one key; `kind` is "exact" or "estimate"."""

    def __init__(self, ws: Workspace, kind: Literal["exact", "estimate"], key: str) -> None:
        self.ws, self.kind, self.key = ws, kind, key
        self.folder = ws.exact_dir(key) if kind == "exact" else ws.estimate_dir(key)
        self._segments: dict[str, Segment] = {}
        self._seen: dict[str, Signature] = {}
        self._tiles, self._pairs = TileIndex(), PairIndex()
        self._lock = threading.RLock()
        self.refresh()

    def refresh(self) -> None:
        """Index segments written since the last look; forget those that are gone.

        One without a manifest is being written by somebody, one that does not match its manifest is
        damaged: neither counts as known, so it is computed again and replaced under the same name.
        """
        with self._lock:
            found = readable(self.folder)
            if any(self._is_other(name, found.get(name)) for name in self._segments):
                self._segments, self._seen = {}, {}
                self._tiles, self._pairs = TileIndex(), PairIndex()
            new = [self.folder / n for n, seen in found.items() if self._seen.get(n) != seen]
            for path, segment in zip(new, each(self.folder, new, read_index), strict=True):
                self._index(path, segment)

    def _is_other(self, name: str, seen: Signature | None) -> bool:
        """Whether an indexed segment is gone or holds other pairs than before (`nncift gc` has been here)."""
        if seen is None or seen == self._seen[name]:
            return seen is None
        now, before = read_index(self.folder / name), self._segments[name]
        return not (
            np.array_equal(now.row_ids, before.row_ids) and np.array_equal(now.column_ids, before.column_ids)
        )

    def _index(self, path: Path, segment: Segment) -> None:
        if segment.layout == "tile":
            rows, columns = self._tiles.interned(segment.row_ids), self._tiles.interned(segment.column_ids)
            segment = Segment(segment.name, "tile", rows, columns)
            self._tiles.add(segment)
        else:
            self._pairs.add(segment.row_ids, segment.column_ids, _values(path))
        self._segments[path.name] = segment
        self._seen[path.name] = signature(path)

    def files(self, row_ids: Int64 | None = None) -> list[str]:
        """Relative paths of the segments that touch `row_ids` (all, when None), sorted."""
        if row_ids is None:
            names = list(self._segments)
        else:
            of_pairs = [s for s in self._segments.values() if s.layout == "pairs"]
            touching = [s.name for s in of_pairs if np.isin(s.row_ids, row_ids).any()]
            names = [*touching, *self._tiles.names(row_ids)]
        return [self.ws.relative(self.folder / name) for name in sorted(names)]

    def coverage(self, row_ids: Int64, column_ids: Int64) -> Bool:
        """Which pairs are known, [len(row_ids), len(column_ids)]."""
        known = np.zeros((len(row_ids), len(column_ids)), dtype=bool)
        for o in self._tiles.overlaps(row_ids, column_ids):
            known[np.ix_(o.to_rows, o.to_columns)] = True
        for i, j, _ in self._pairs.within(row_ids, column_ids):
            known[i, j] = True
        return known

    def missing(self, row_ids: Int64, column_ids: Int64) -> int:
        """How many pairs of the rectangle are not known."""
        size = len(row_ids) * len(column_ids)
        tiles = self._tiles.overlaps(row_ids, column_ids)
        if not tiles and not any(len(i) for i, _, _ in self._pairs.within(row_ids, column_ids)):
            return size
        if any(len(o.to_rows) * len(o.to_columns) == size for o in tiles):
            return 0
        return size - int(self.coverage(row_ids, column_ids).sum())

    def fill(self, row_ids: Int64, column_ids: Int64, out: Float32) -> None:
        """Write every known value into `out` [len(row_ids), len(column_ids)]; the rest stays."""
        overlaps = self._tiles.overlaps(row_ids, column_ids)
        bring(self.folder, (self.folder / o.name for o in overlaps))
        for o in overlaps:
            out[np.ix_(o.to_rows, o.to_columns)] = self._tile(o.name)[np.ix_(o.from_rows, o.from_columns)]
        for i, j, values in self._pairs.within(row_ids, column_ids):
            out[i, j] = values

    def write_tile(
        self,
        row_ids: Int64,
        column_ids: Int64,
        values: Float32,
        *,
        producer: str,
        parents: tuple[str, ...] = (),
        counts: dict[str, int] | None = None,
    ) -> str:
        """Store the product tile values [r, c]; returns its relative path.

        counts: what a user should hear of (truncated sequences), kept in the manifest.
        """
        rows = np.repeat(row_ids, len(column_ids))
        columns = np.tile(column_ids, len(row_ids))
        segment = Segment("", "tile", row_ids, column_ids)
        return self._write(segment, rows, columns, values.ravel(), producer, parents, counts)

    def write_pairs(
        self,
        row_ids: Int64,
        column_ids: Int64,
        values: Float32,
        *,
        producer: str,
        parents: tuple[str, ...] = (),
        counts: dict[str, int] | None = None,
    ) -> str:
        """Store scattered pairs: three arrays [k]; returns the segment's relative path."""
        segment = Segment("", "pairs", row_ids, column_ids)
        return self._write(segment, row_ids, column_ids, values, producer, parents, counts)

    def _write(
        self,
        segment: Segment,
        rows: Int64,
        columns: Int64,
        values: Float32,
        producer: str,
        parents: tuple[str, ...],
        counts: dict[str, int] | None,
    ) -> str:
        if not np.isfinite(values).all():
            raise ValueError(f"{int((~np.isfinite(values)).sum())} influence values are not finite")
        table = segment_table(segment, rows, columns, values)
        key = digest([self.key, segment.layout, segment.row_ids.tolist(), segment.column_ids.tolist()])
        path = self.folder / f"{segment.layout}-{key}.parquet"
        publish(
            self.ws.root,
            path,
            lambda p: write_segment(table, p),
            kind=self.kind,
            key=self.key,
            rows=len(values),
            producer=producer,
            parents=parents,
            meta={"layout": segment.layout, **(counts or {})},
        )
        with self._lock:
            self._index(path, read_index(path))
        return self.ws.relative(path)

    def _tile(self, name: str) -> Float32:
        s = self._segments[name]
        out: Float32 = _values(self.folder / name).reshape(len(s.row_ids), len(s.column_ids))
        return out


def _values(path: Path) -> Float32:
    found: Float32 = read_checked(path, ["value"])["value"].to_numpy()
    return found


def segment_table(segment: Segment, rows: Int64, columns: Int64, values: Float32) -> pa.Table:
    """The file of a segment: its pairs, tiles row by row: rows [k], columns [k], values [k]."""
    index = {
        b"layout": segment.layout.encode(),
        b"row_ids": base64.b64encode(segment.row_ids.astype("<i8").tobytes()),
        b"column_ids": base64.b64encode(segment.column_ids.astype("<i8").tobytes()),
    }
    made = pa.table([pa.array(rows), pa.array(columns), pa.array(values.astype(np.float32))], schema=SCHEMA)
    return made.replace_schema_metadata(index)


def write_segment(table: pa.Table, path: Path) -> None:
    """Write a `segment_table` to `path`."""
    names = ["row_content", "column_content"]
    pq.write_table(
        table, path, compression="zstd", use_dictionary=names, row_group_size=ROW_GROUP,
        write_page_checksum=True,
    )  # fmt: skip


def read_index(path: Path) -> Segment:
    """Which pairs a segment's file holds; reads no values."""
    meta = read_footer(path).metadata
    ids = {
        name: np.frombuffer(base64.b64decode(meta[name]), "<i8").astype(np.int64)
        for name in (b"row_ids", b"column_ids")
    }
    layout: Literal["tile", "pairs"] = "tile" if meta[b"layout"] == b"tile" else "pairs"
    return Segment(path.name, layout, ids[b"row_ids"], ids[b"column_ids"])


def living_pairs(segment: Segment, living: Int64) -> tuple[int, int]:
    """How many pairs a segment holds, and of how many both contents are among `living` (sorted)."""
    rows, columns = np.isin(segment.row_ids, living), np.isin(segment.column_ids, living)
    if segment.layout == "tile":
        return len(rows) * len(columns), int(rows.sum()) * int(columns.sum())
    return len(rows), int((rows & columns).sum())


def living_part(path: Path, living: Int64) -> pa.Table:
    """A segment's file without the pairs of which a content is not among `living`; values bit-equal."""
    segment = read_index(path)
    table = pq.read_table(here(path))
    rows, columns = np.isin(segment.row_ids, living), np.isin(segment.column_ids, living)
    kept = np.outer(rows, columns).ravel() if segment.layout == "tile" else rows & columns
    part = Segment(path.name, segment.layout, segment.row_ids[rows], segment.column_ids[columns])
    if segment.layout == "pairs":
        part = Segment(path.name, "pairs", segment.row_ids[kept], segment.column_ids[kept])
    table = table.filter(pa.array(kept))
    pairs = [table[name].to_numpy() for name in ("row_content", "column_content", "value")]
    return segment_table(part, *pairs)


def rectangles(missing: Bool) -> list[tuple[Int64, Int64]]:
    """Cover the True cells of `missing` [r, c] by disjoint rectangles (row index, column index).

    Rows with the same missing columns go together, so a fresh block is one rectangle.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, row in enumerate(np.packbits(missing, axis=1)):
        groups[row.tobytes()].append(i)
    out = []
    for rows in groups.values():
        columns = np.flatnonzero(missing[rows[0]])
        if len(columns):
            out.append((np.array(rows, dtype=np.int64), columns.astype(np.int64)))
    return out
