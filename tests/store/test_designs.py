"""Label designs stay while the pool changes little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nncift_core.errors import IntegrityError
from nncift_core.estimator import block_design
from nncift_core.estimator.labels import scattered_pairs
from nncift_core.store.designs import (
    Drawn,
    LabelCost,
    StoredDesign,
    extend_design,
    find,
    find_or_make,
    load_design,
    note_design,
)
from nncift_core.store.files import publish, read_manifest
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


def scatter(ws: Workspace, rows: np.ndarray, growth: float = 0.25) -> StoredDesign:
    def draw(r: np.ndarray, c: np.ndarray) -> Drawn:
        i, j = scattered_pairs(r, c, 250, 0)
        return Drawn(np.unique(i), np.unique(j), "scattered", i, j, LabelCost(99.5, 100.0, "tokens"))

    return find_or_make(ws, "scattered", rows, COLUMNS, growth, draw)


def pairs(found: tuple[np.ndarray, np.ndarray]) -> set[tuple[int, int]]:
    return set(zip(found[0].tolist(), found[1].tolist(), strict=True))


def test_scattered_pairs_and_their_price_are_kept(tmp_path: Path) -> None:
    ws, rows = Workspace.create(tmp_path / "ws"), np.arange(100, dtype=np.int64)
    made = scatter(ws, rows)
    drawn = pairs(scattered_pairs(rows, COLUMNS, 250, 0))
    assert pairs((made.pair_rows, made.pair_columns)) == drawn
    assert (made.kind, made.ref.pairs, made.ref.rows, made.ref.columns) == ("scattered", 250, 100, 20)
    assert (made.ref.cost, made.ref.block_cost, made.ref.cost_unit) == (99.5, 100.0, "tokens")
    assert made.all_rows.tolist() == rows.tolist() and made.all_columns.tolist() == COLUMNS.tolist()
    manifest = read_manifest(ws.root / made.ref.path)
    assert manifest is not None and manifest.meta["design"] == "scattered" and manifest.meta["cost"] == 99.5
    kept = scatter(ws, np.arange(115, dtype=np.int64))
    assert (kept.ref.key, kept.ref.reused) == (made.ref.key, True)
    assert pairs((kept.pair_rows, kept.pair_columns)) == drawn


def test_pairs_of_rows_that_went_away_are_left_out(tmp_path: Path) -> None:
    ws, rows = Workspace.create(tmp_path / "ws"), np.arange(100, dtype=np.int64)
    made = scatter(ws, rows)
    found = pairs(made.pairs_among(rows[10:], COLUMNS[3:]))
    assert 0 < len(found) < 250
    assert found == {(r, c) for r, c in pairs((made.pair_rows, made.pair_columns)) if r >= 10 and c >= 1003}


def test_a_block_has_a_price_too_and_no_scattered_pairs(tmp_path: Path) -> None:
    ws, rows = Workspace.create(tmp_path / "ws"), np.arange(100, dtype=np.int64)
    drawn = Drawn(rows[:5], COLUMNS, "all-targets", cost=LabelCost(25, 25, "rows"))
    made = find_or_make(ws, "rows", rows, COLUMNS, 0.0, lambda r, c: drawn)
    assert (made.kind, made.ref.pairs, made.ref.cost, made.ref.cost_unit) == ("all-targets", 100, 25, "rows")
    assert len(made.pair_rows) == len(made.pair_columns) == 0
    assert design(ws, rows).ref.cost is None


def test_designs_of_an_older_store_are_blocks(tmp_path: Path) -> None:
    ws, rows = Workspace.create(tmp_path / "ws"), np.arange(100, dtype=np.int64)
    made = design(ws, rows)
    # As they were written before there were other designs.
    table = pa.table(
        {
            "side": pa.array(["row"] * 100 + ["column"] * 20).dictionary_encode(),
            "content_id": pa.array(np.concatenate([rows, COLUMNS])),
            "labelled": pa.array(np.isin(np.concatenate([rows, COLUMNS]), np.r_[rows[:10], COLUMNS[:4]])),
        }
    )
    publish(
        ws.root,
        ws.root / made.ref.path,
        lambda p: pq.write_table(table, p),
        kind="label-design",
        key=made.ref.key,
        rows=120,
        producer="exact-influence",
        meta={"label_rows": 10, "label_columns": 4},
    )
    old = find(ws, "family", rows, COLUMNS, 0.0)
    assert old is not None and (old.kind, old.ref.pairs, old.ref.cost) == ("block", 40, None)
    assert old.label_rows.tolist() == rows[:10].tolist() and len(old.pair_rows) == 0


def test_a_noted_design_goes_before_all_others(tmp_path: Path) -> None:
    ws, rows = Workspace.create(tmp_path / "ws"), np.arange(100, dtype=np.int64)
    first = design(ws, rows)
    many = np.arange(300, dtype=np.int64)
    own = design(ws, many)
    assert own.ref.key != first.ref.key
    note_design(ws, "family", many, COLUMNS, first.ref.key)
    kept = find(ws, "family", many, COLUMNS, 0.0)
    assert kept is not None and (kept.ref.key, kept.ref.reused) == (first.ref.key, True)
    note_design(ws, "family", many, COLUMNS, own.ref.key)
    assert design(ws, many).ref.key == own.ref.key


def test_an_extended_block_holds_the_old_labels_and_names_its_origin(tmp_path: Path) -> None:
    ws, rows = Workspace.create(tmp_path / "ws"), np.arange(100, dtype=np.int64)
    first = design(ws, rows)
    gone, now = first.label_rows[0], np.arange(40, 140, dtype=np.int64)
    now = now[now != gone]
    added = Drawn(np.arange(120, 124, dtype=np.int64), COLUMNS[:0])
    made = extend_design(ws, "family", first, now, COLUMNS, added)
    assert (made.ref.extends, made.kind, made.ref.reused) == (first.ref.key, "block", False)
    assert set(made.label_rows.tolist()) == {*first.label_rows.tolist(), 120, 121, 122, 123}
    assert set(made.label_columns.tolist()) == set(first.label_columns.tolist())
    assert set(made.all_rows.tolist()) == {*now.tolist(), *first.label_rows.tolist()}, "labels may come back"
    manifest = read_manifest(ws.root / made.ref.path)
    assert manifest is not None and first.ref.path in manifest.parents
    assert made.ref.cost is None and first.ref.extends == ""
    again = extend_design(ws, "family", first, now, COLUMNS, added)
    assert again.ref == made.ref
    assert load_design(ws, "family", made.ref.key).ref.extends == first.ref.key


def test_extended_scattered_pairs_are_the_old_ones_and_the_new(tmp_path: Path) -> None:
    ws, rows = Workspace.create(tmp_path / "ws"), np.arange(100, dtype=np.int64)
    first = scatter(ws, rows)
    r, c = np.array([100, 101]), COLUMNS[:2]
    added = Drawn(r, c, "scattered", r, c)
    made = extend_design(ws, "scattered", first, np.arange(110, dtype=np.int64), COLUMNS, added)
    assert made.ref.pairs == 252 and made.ref.extends == first.ref.key
    old = pairs((first.pair_rows, first.pair_columns))
    assert pairs((made.pair_rows, made.pair_columns)) == old | {(100, 1000), (101, 1001)}


def test_a_design_that_is_gone_is_an_error_and_no_other_one(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    made = design(ws, np.arange(100, dtype=np.int64))
    (ws.root / made.ref.path).write_bytes(b"")
    with pytest.raises(IntegrityError, match="label design is missing or damaged"):
        load_design(ws, "family", made.ref.key)
