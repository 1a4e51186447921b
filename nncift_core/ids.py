"""Finding content ids among millions: sorted arrays in the place of dictionaries, at 8 to 16 bytes an id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


def distinct(ids: Int64) -> Int64:
    """The distinct values of `ids` [n], each where it first stands."""
    _, first = np.unique(ids, return_index=True)
    found: Int64 = ids[np.sort(first)]
    return found


class Sorted:
    """Where ids stand: of `ids` [n] (distinct), the index of any other ones."""

    def __init__(self, ids: Int64) -> None:
        self._order: Int64 = np.argsort(ids, kind="stable")
        self._ids: Int64 = ids[self._order]

    def find(self, wanted: Int64) -> Int64:
        """Index into the ids of each of `wanted` [k]; -1 where it is not among them."""
        if not len(self._ids):
            return np.full(len(wanted), -1, np.int64)
        at = np.minimum(np.searchsorted(self._ids, wanted), len(self._ids) - 1)
        found: Int64 = np.where(self._ids[at] == wanted, self._order[at], -1)
        return found


class _Run(Protocol):
    """Sorted arrays of one length, made of some files."""

    def __len__(self) -> int: ...


R = TypeVar("R", bound=_Run)


def pushed(runs: list[R], run: R, merged: Callable[[R, R], R]) -> list[R]:
    """`runs` with one more, merged so that their sizes at least halve from one to the next.

    Adding files one by one then costs O(n log n) in all, and there are O(log n) runs to look into. `runs`
    stays as it is: whoever reads it meanwhile misses nothing.
    """
    kept = list(runs)
    while kept and len(kept[-1]) < 2 * len(run):
        run = merged(kept.pop(), run)
    return [*kept, run]


def spans(low: Int64, high: Int64) -> Int64:
    """The numbers low[k], ..., high[k] - 1 of every k, one after another."""
    n = high - low
    starts = np.cumsum(n) - n
    found: Int64 = np.repeat(low - starts, n) + np.arange(int(n.sum()), dtype=np.int64)
    return found


@dataclass(frozen=True, eq=False)
class _Placed:
    """Ids [n], sorted, each with the file and the position in it where it was first seen."""

    ids: Int64
    files: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)


class Places:
    """In which file, and where in it, each content id stands. Files are added one by one."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._runs: list[_Placed] = []

    def copy(self) -> Places:
        """The same places; files added to the one are not in the other."""
        made = Places()
        made.names, made._runs = list(self.names), self._runs
        return made

    def add(self, name: str, ids: Int64) -> None:
        """A file whose rows have `ids` [n]; of an id that is known, the earlier place stays."""
        self.names.append(name)
        files = np.full(len(ids), len(self.names) - 1, np.int32)
        run = _first(_Placed(ids, files, np.arange(len(ids), dtype=np.int32)))
        self._runs = pushed(self._runs, run, _merged)

    def find(self, wanted: Int64) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Files [k] (index into `names`) and positions [k] of `wanted` [k]; -1 where there is none."""
        files, positions = (np.full(len(wanted), -1, np.int32) for _ in range(2))
        for run in self._runs:
            if not len(run):
                continue
            at = np.minimum(np.searchsorted(run.ids, wanted), len(run) - 1)
            # Earlier files stand in earlier runs, and go first.
            here = (run.ids[at] == wanted) & (files < 0)
            files[here], positions[here] = run.files[at[here]], run.positions[at[here]]
        return files, positions

    def has(self, wanted: Int64) -> Bool:
        """Which of `wanted` [k] have a place."""
        found: Bool = self.find(wanted)[0] >= 0
        return found


def _merged(earlier: _Placed, later: _Placed) -> _Placed:
    return _first(
        _Placed(
            np.concatenate([earlier.ids, later.ids]),
            np.concatenate([earlier.files, later.files]),
            np.concatenate([earlier.positions, later.positions]),
        )
    )


def _first(run: _Placed) -> _Placed:
    """`run` sorted, each id once: where it stands first."""
    order = np.argsort(run.ids, kind="stable")
    ids = run.ids[order]
    new = np.ones(len(ids), bool)
    new[1:] = ids[1:] != ids[:-1]
    order = order[new]
    return _Placed(run.ids[order], run.files[order], run.positions[order])


@dataclass(frozen=True, eq=False)
class _Numbered:
    """Ids [n], sorted, each with a number; an id may stand several times."""

    ids: Int64
    numbers: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)


class Groups:
    """The numbers of the groups that each content id is in; an id may be in several."""

    def __init__(self) -> None:
        self._runs: list[_Numbered] = []

    def add(self, ids: Int64, number: int) -> None:
        """A group with `ids` [n]."""
        run = _Numbered(np.sort(ids), np.full(len(ids), number, np.int32))
        self._runs = pushed(self._runs, run, _both)

    def of(self, wanted: Int64) -> Int64:
        """The groups that hold any of `wanted` [k], ascending."""
        ids, found = np.unique(wanted), [np.empty(0, np.int32)]
        for run in self._runs:
            low, high = (np.searchsorted(run.ids, ids, side) for side in ("left", "right"))
            found.append(np.unique(run.numbers[spans(low, high)]))
        return np.unique(np.concatenate(found)).astype(np.int64)


def _both(a: _Numbered, b: _Numbered) -> _Numbered:
    ids, numbers = np.concatenate([a.ids, b.ids]), np.concatenate([a.numbers, b.numbers])
    order = np.argsort(ids, kind="stable")
    return _Numbered(ids[order], numbers[order])
