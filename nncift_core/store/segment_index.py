"""Which pairs the segments of a store hold: tiles by groups of rows, single pairs in sorted runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from nncift_core.ids import Groups, Sorted, pushed, spans

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Segment:
    """One file. Tile: row_ids [r], column_ids [c]; pairs: row_ids [k], column_ids [k]."""

    name: str
    layout: Literal["tile", "pairs"]
    row_ids: Int64
    column_ids: Int64


@dataclass(frozen=True, eq=False)
class Overlap:
    """Where a tile meets a rectangle: rows and columns of the rectangle, rows and columns of the tile."""

    name: str
    to_rows: Int64
    to_columns: Int64
    from_rows: Int64
    from_columns: Int64


@dataclass(eq=False)
class _RowGroup:
    """Tiles of the same rows: their names."""

    row_ids: Int64
    names: list[str] = field(default_factory=list)


class TileIndex:
    """Tiles by the rows that they hold. Most tiles of a store share their rows with others (the blocks of
    columns), and their columns with nearly all: both are kept once."""

    def __init__(self) -> None:
        self._ids: dict[bytes, Int64] = {}
        self._groups: list[_RowGroup] = []
        self._number: dict[int, int] = {}
        self._columns: dict[str, Int64] = {}
        self._of_row = Groups()

    def interned(self, ids: Int64) -> Int64:
        """The one array that stands for all equal ones."""
        return self._ids.setdefault(ids.tobytes(), ids)

    def add(self, tile: Segment) -> None:
        """A tile whose arrays are `interned`; doing it again changes nothing."""
        if tile.name in self._columns:
            return
        number = self._number.get(id(tile.row_ids))
        if number is None:
            number = self._number[id(tile.row_ids)] = len(self._groups)
            self._groups.append(_RowGroup(tile.row_ids))
            self._of_row.add(tile.row_ids, number)
        self._groups[number].names.append(tile.name)
        self._columns[tile.name] = tile.column_ids

    def names(self, row_ids: Int64) -> list[str]:
        """Tiles that hold any of `row_ids`, sorted."""
        return sorted(n for g in self._of_row.of(row_ids).tolist() for n in self._groups[g].names)

    def overlaps(self, row_ids: Int64, column_ids: Int64) -> list[Overlap]:
        """Every tile that meets the rectangle of distinct `row_ids` x `column_ids`, by name."""
        found, columns = [], dict[int, tuple[Int64, Int64]]()
        for number in self._of_row.of(row_ids).tolist():
            group = self._groups[number]
            rows = _common(row_ids, group.row_ids)
            for name in group.names:
                own = self._columns[name]
                if id(own) not in columns:
                    columns[id(own)] = _common(column_ids, own)
                to_columns, from_columns = columns[id(own)]
                if len(rows[0]) and len(to_columns):
                    found.append(Overlap(name, rows[0], to_columns, rows[1], from_columns))
        return sorted(found, key=lambda o: o.name)


def _common(wanted: Int64, own: Int64) -> tuple[Int64, Int64]:
    """Where the ids that both have stand in each."""
    _, to, source = np.intersect1d(wanted, own, return_indices=True)
    return to, source


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs [k], sorted by row and column, each once."""

    rows: Int64
    columns: Int64
    values: Float32

    def __len__(self) -> int:
        return len(self.rows)


class PairIndex:
    """Values of single pairs; of one that is given twice, the later."""

    def __init__(self) -> None:
        self._runs: list[_Pairs] = []

    def add(self, rows: Int64, columns: Int64, values: Float32) -> None:
        """Pairs (rows[k], columns[k]) and their values [k]."""
        self._runs = pushed(self._runs, _last(_Pairs(rows, columns, values)), _joined)

    def within(self, row_ids: Int64, column_ids: Int64) -> list[tuple[Int64, Int64, Float32]]:
        """Known pairs of the rectangle: index into `row_ids`, into `column_ids`, values; a pair may be in
        several of the parts, and the last one holds."""
        rows, columns, found = np.argsort(row_ids, kind="stable"), Sorted(column_ids), []
        ids = row_ids[rows]
        for run in self._runs:
            low, high = (np.searchsorted(run.rows, ids, side) for side in ("left", "right"))
            at = spans(low, high)
            i, j = np.repeat(rows, high - low), columns.find(run.columns[at])
            here = j >= 0
            found.append((i[here], j[here], run.values[at[here]]))
        return found


def _joined(earlier: _Pairs, later: _Pairs) -> _Pairs:
    return _last(
        _Pairs(
            np.concatenate([earlier.rows, later.rows]),
            np.concatenate([earlier.columns, later.columns]),
            np.concatenate([earlier.values, later.values]),
        )
    )


def _last(pairs: _Pairs) -> _Pairs:
    """`pairs` sorted, each once: as it was given last."""
    order = np.lexsort((pairs.columns, pairs.rows))
    rows, columns = pairs.rows[order], pairs.columns[order]
    last = np.ones(len(rows), bool)
    last[:-1] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
    order = order[last]
    return _Pairs(pairs.rows[order], pairs.columns[order], pairs.values[order])
