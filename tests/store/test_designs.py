"""Label designs stay while the pool changes little."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nncift_core.estimator import block_design
from nncift_core.store.designs import StoredDesign, find_or_make
from nncift_core.store.workspace import Workspace

COLUMNS = np.arange(1000, 1020, dtype=np.int64)


def design(ws: Workspace, rows: np.ndarray, growth: float = 0.25) -> StoredDesign:
    def draw(r: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        d = block_design(r, c, 0.2, 0)
        return d.rows, d.columns

    return find_or_make(ws, "family", rows, COLUMNS, growth, draw)


def test_a_small_append_keeps_the_labels(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    first = design(ws, np.arange(100, dtype=np.int64))
    assert (len(first.label_rows), len(first.label_columns), first.ref.reused) == (20, 4, False)
    kept = design(ws, np.arange(120, dtype=np.int64))
    assert (kept.ref.key, kept.ref.reused) == (first.ref.key, True)


def test_a_large_change_draws_anew_and_the_old_design_returns_with_its_rows(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    first = design(ws, np.arange(100, dtype=np.int64))
    grown = design(ws, np.arange(150, dtype=np.int64))
    assert grown.ref.key != first.ref.key
    assert len(grown.label_rows) == 30
    back = design(ws, np.arange(100, dtype=np.int64))
    assert (back.ref.key, back.ref.reused) == (first.ref.key, False)


def test_removal_counts_as_change(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    first = design(ws, np.arange(100, dtype=np.int64))
    assert design(ws, np.arange(20, 100, dtype=np.int64)).ref.key == first.ref.key
    assert design(ws, np.arange(40, 100, dtype=np.int64)).ref.key != first.ref.key


def test_zero_growth_draws_for_every_change(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    first = design(ws, np.arange(100, dtype=np.int64))
    assert design(ws, np.arange(101, dtype=np.int64), growth=0.0).ref.key != first.ref.key


def test_a_later_design_does_not_take_the_place_of_the_one_in_use(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    first = design(ws, np.arange(100, dtype=np.int64))
    assert design(ws, np.arange(118, dtype=np.int64)).ref.key == first.ref.key
    assert design(ws, np.arange(130, dtype=np.int64)).ref.key != first.ref.key
    assert design(ws, np.arange(118, dtype=np.int64)).ref.key == first.ref.key
