"""Tiles and scattered pairs behind one interface; the anti-join; the completed matrix."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nncift_core.errors import RunError
from nncift_core.pipeline.exact_shards import stored_values
from nncift_core.store.files import sum_counts
from nncift_core.store.matrix import MatrixReader
from nncift_core.store.segments import SegmentStore, rectangles
from nncift_core.store.workspace import Workspace

ROWS = np.array([50, 10, 40, 30], np.int64)
COLUMNS = np.array([7, 9, 8], np.int64)


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "ws")


def table(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return (rows[:, None] * 100 + columns[None, :]).astype(np.float32)


def test_tiles_and_pairs_are_found_by_content(ws: Workspace) -> None:
    store = SegmentStore(ws, "exact", "k" * 32)
    store.write_tile(ROWS[:2], COLUMNS, table(ROWS[:2], COLUMNS), producer="t")
    store.write_pairs(ROWS[[2]], COLUMNS[[1]], np.array([-1.5], np.float32), producer="t")
    again = SegmentStore(ws, "exact", "k" * 32)
    expected = np.zeros((4, 3), bool)
    expected[:2] = True
    expected[2, 1] = True
    assert np.array_equal(again.coverage(ROWS, COLUMNS), expected)
    order = np.array([3, 2, 1, 0])
    assert np.array_equal(again.coverage(ROWS[order], COLUMNS), expected[order])
    out = np.full((4, 3), np.nan, np.float32)
    again.fill(ROWS, COLUMNS, out)
    assert np.array_equal(out[:2], table(ROWS[:2], COLUMNS))
    assert out[2, 1] == -1.5
    assert np.isnan(out[3]).all()
    assert stored_values(again, ROWS[[0, 2, 3]], COLUMNS[[2, 1, 0]]).tolist()[:2] == [5008.0, -1.5]


def test_a_damaged_segment_is_dropped_so_that_it_is_computed_again(ws: Workspace) -> None:
    store = SegmentStore(ws, "estimate", "e" * 32)
    path = ws.root / store.write_tile(ROWS, COLUMNS, table(ROWS, COLUMNS), producer="t")
    path.write_bytes(path.read_bytes()[:-10])
    again = SegmentStore(ws, "estimate", "e" * 32)
    assert not again.coverage(ROWS, COLUMNS).any()
    again.write_tile(ROWS, COLUMNS, table(ROWS, COLUMNS), producer="t")
    assert SegmentStore(ws, "estimate", "e" * 32).coverage(ROWS, COLUMNS).all()


def test_values_that_are_not_finite_are_refused(ws: Workspace) -> None:
    store = SegmentStore(ws, "exact", "k" * 32)
    with pytest.raises(ValueError, match="1 influence values are not finite"):
        store.write_pairs(ROWS[:1], COLUMNS[:1], np.array([np.nan], np.float32), producer="t")
    assert store.files() == []


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 11))))
def test_rectangles_cover_exactly_the_missing_cells_once(missing: np.ndarray) -> None:
    count = np.zeros(missing.shape, int)
    for rows, columns in rectangles(missing):
        count[np.ix_(rows, columns)] += 1
    assert np.array_equal(count, missing.astype(int))


def test_a_fresh_block_is_one_rectangle() -> None:
    assert len(rectangles(np.ones((5, 4), bool))) == 1


def test_exact_beats_estimated_and_holes_are_an_error(ws: Workspace) -> None:
    exact, estimates = SegmentStore(ws, "exact", "k" * 32), SegmentStore(ws, "estimate", "e" * 32)
    estimates.write_tile(ROWS, COLUMNS, np.zeros((4, 3), np.float32), producer="t")
    exact.write_pairs(ROWS[[1]], COLUMNS[[2]], np.array([3.0], np.float32), producer="t")
    blocks = list(MatrixReader(exact, estimates, [ROWS[:3], ROWS[3:]], COLUMNS))
    assert blocks[0].values[1, 2] == 3.0
    assert blocks[0].exact.sum() == 1
    assert [len(b.row_ids) for b in blocks] == [3, 1]
    with pytest.raises(RunError, match="11 pairs have neither"):
        list(MatrixReader(exact, None, [ROWS], COLUMNS))


def test_a_reader_never_harms_a_writer(ws: Workspace) -> None:
    """Between payload and manifest a new file looks unfinished: readers must leave it alone."""
    key, stop = "k" * 32, threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        while not stop.is_set():
            try:
                SegmentStore(ws, "exact", key)
            except BaseException as e:
                failures.append(e)

    reader = threading.Thread(target=read)
    reader.start()
    writer = SegmentStore(ws, "exact", key)
    for n in range(60):
        writer.write_tile(ROWS + 100 * n, COLUMNS, table(ROWS, COLUMNS), producer="t")
    stop.set()
    reader.join()
    assert failures == []
    assert len(SegmentStore(ws, "exact", key).files()) == 60


def test_counts_of_cut_texts_are_summed_over_files(ws: Workspace) -> None:
    store = SegmentStore(ws, "exact", "k" * 32)
    for n, cut in enumerate((2, 3)):
        store.write_tile(
            ROWS + n, COLUMNS, table(ROWS, COLUMNS), producer="t", counts={"truncated_sequences": cut}
        )
    assert sum_counts(ws.root, store.files()) == {"truncated_sequences": 5}
