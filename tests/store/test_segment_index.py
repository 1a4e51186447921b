"""The index of a store's segments, beside a plain dictionary of pairs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nncift_core.errors import IntegrityError
from nncift_core.pipeline.exact_shards import stored_values
from nncift_core.store.segments import SegmentStore
from nncift_core.store.vectors import VectorStore
from nncift_core.store.workspace import Workspace

IDS = st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True)
PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8, unique=True)
STEPS = st.lists(st.tuples(st.just("tile"), IDS, IDS) | st.tuples(st.just("pairs"), PAIRS), max_size=6)


def array(ids: list[int]) -> np.ndarray:
    return np.array(ids, np.int64)


def value(row: int, column: int) -> float:
    """What every segment says of a pair: values are functions of their pair."""
    return row * 100 + column + 0.5


@settings(max_examples=40, deadline=None)
@given(STEPS, IDS, IDS, st.booleans())
def test_the_index_knows_what_a_dictionary_knows(
    tmp_path_factory: pytest.TempPathFactory, steps: list, rows: list[int], columns: list[int], again: bool
) -> None:
    ws = Workspace.create(tmp_path_factory.mktemp("w") / "ws")
    store, known, touching = SegmentStore(ws, "exact", "f" * 32), dict[tuple[int, int], float](), {}
    for step in steps:
        pairs = [(r, c) for r in step[1] for c in step[2]] if step[0] == "tile" else step[1]
        values = np.array([value(*p) for p in pairs], np.float32)
        if step[0] == "tile":
            shape = len(step[1]), len(step[2])
            path = store.write_tile(array(step[1]), array(step[2]), values.reshape(shape), producer="t")
        else:
            r, c = (array([p[side] for p in pairs]) for side in (0, 1))
            path = store.write_pairs(r, c, values, producer="t")
        known |= {p: value(*p) for p in pairs}
        touching[path] = {p[0] for p in pairs}
    if again:
        store = SegmentStore(ws, "exact", "f" * 32)
    wanted = [(r, c) for r in rows for c in columns]
    expected = np.array([known.get(p, np.nan) for p in wanted], np.float32)
    out = np.full((len(rows), len(columns)), np.nan, np.float32)
    store.fill(array(rows), array(columns), out)
    assert np.array_equal(out.ravel(), expected, equal_nan=True)
    coverage = store.coverage(array(rows), array(columns))
    assert np.array_equal(coverage.ravel(), ~np.isnan(expected))
    assert store.missing(array(rows), array(columns)) == int(np.isnan(expected).sum())
    found = stored_values(store, array([p[0] for p in wanted]), array([p[1] for p in wanted]))
    assert np.array_equal(found, expected, equal_nan=True)
    assert store.files(array(rows)) == sorted(p for p, of in touching.items() if not of.isdisjoint(rows))
    assert store.files() == sorted(touching)


def test_equal_rows_and_columns_of_tiles_are_kept_once(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    store = SegmentStore(ws, "estimate", "e" * 32)
    rows = [np.arange(8) + 8 * b for b in range(3)]
    columns = [np.arange(4) + 4 * b for b in range(5)]
    for r in rows:
        for c in columns:
            store.write_tile(r, c, np.zeros((8, 4), np.float32), producer="t")
    for index in (store, SegmentStore(ws, "estimate", "e" * 32)):
        kept = {id(s.row_ids) for s in index._segments.values()}
        assert len(kept) == 3 and len({id(s.column_ids) for s in index._segments.values()}) == 5


def rotted(path: Path) -> None:
    """Change a byte of a file's data, as a failing disk does: inode and times stay."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns


def test_what_rotted_on_the_disk_is_told_when_it_is_read_and_then_missing(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 30)).astype(np.float32)
    store = SegmentStore(ws, "exact", "f" * 32)
    rotted(ws.root / store.write_tile(np.arange(40), np.arange(30), values, producer="t"))
    vectors = VectorStore(ws, "e" * 32)
    rotted(ws.root / vectors.write(np.arange(40), values))
    # Nobody has touched them: planning takes them as they are.
    again = SegmentStore(ws, "exact", "f" * 32), VectorStore(ws, "e" * 32)
    assert again[0].missing(np.arange(40), np.arange(30)) == 0 == len(again[1].missing(np.arange(40)))
    with pytest.raises(IntegrityError, match="damaged"):
        again[0].fill(np.arange(40), np.arange(30), np.empty((40, 30), np.float32))
    with pytest.raises(IntegrityError, match="damaged"):
        again[1].load(np.arange(40))
    for store in again:
        store.refresh()
    assert (
        again[0].missing(np.arange(40), np.arange(30)) == 1200 and len(again[1].missing(np.arange(40))) == 40
    )


def test_a_copied_workspace_is_checked_by_its_checksums(tmp_path: Path) -> None:
    import shutil

    ws = Workspace.create(tmp_path / "ws")
    path = SegmentStore(ws, "exact", "f" * 32).write_tile(
        np.arange(3), np.arange(2), np.ones((3, 2), np.float32), producer="t"
    )
    copy = Workspace(shutil.copytree(ws.root, tmp_path / "copy"))
    assert SegmentStore(copy, "exact", "f" * 32).missing(np.arange(3), np.arange(2)) == 0
    rotted(copy.root / path)
    # Read when the index was made: only a change that leaves inode and time is not seen by the next look.
    other = Workspace(shutil.copytree(copy.root, tmp_path / "other"))
    assert SegmentStore(other, "exact", "f" * 32).missing(np.arange(3), np.arange(2)) == 6
