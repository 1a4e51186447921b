"""Append-only blocks: ids, duplicates, appends, removals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from nncift_core.hashing import digest
from nncift_core.records import Example
from nncift_core.store import dataset_writer
from nncift_core.store.dataset_writer import store_dataset
from nncift_core.store.datasets import VERSION_SCHEMA, Dataset
from nncift_core.store.references import DatasetRef
from nncift_core.store.workspace import Workspace


def examples(texts: list[str]) -> list[Example]:
    return [Example(t, f"r {t}", n, record={"prompt": t, "n": n}) for n, t in enumerate(texts)]


def store(ws: Workspace, texts: list[str], rows: int = 4, role: str = "pool") -> DatasetRef:
    return store_dataset(
        ws, examples(texts), dataset="d", role=role, block_rows=rows, fingerprint="f"
    )  # fmt: skip


def test_rows_keep_their_ids_and_order(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    ref = store(ws, ["a", "b", "a", "c", "d", "e"])
    d = Dataset(ws, ref)
    assert (ref.rows, ref.new_rows) == (6, 6)
    assert len(set(d.example_ids.tolist())) == 6
    assert d.content_ids[0] == d.content_ids[2]
    assert [s.tolist() for s in d.shards()] == [
        d.content_ids[[0, 1, 3]].tolist(),
        d.content_ids[[4, 5]].tolist(),
    ]
    assert d.texts(d.content_ids[[4, 0]]).prompts == ("d", "a")


def test_appending_adds_blocks_and_changes_none(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    before = Dataset(ws, store(ws, ["a", "b", "c", "d", "e"]))
    ref = store(ws, ["a", "b", "c", "d", "e", "f", "a"])
    after = Dataset(ws, ref)
    assert ref.new_rows == 2
    assert np.array_equal(after.example_ids[:5], before.example_ids)
    assert [b.name for b in after.blocks[:2]] == [b.name for b in before.blocks]
    assert len(after.blocks) == 3
    assert [len(s) for s in after.shards()] == [4, 1, 1]


def test_removed_rows_leave_the_version_and_come_back_with_their_ids(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    first = Dataset(ws, store(ws, ["a", "b", "c"]))
    fewer = Dataset(ws, store(ws, ["c", "a"]))
    assert set(fewer.example_ids.tolist()) == set(first.example_ids[[0, 2]].tolist())
    again = store(ws, ["a", "b", "c"])
    assert (again.new_rows, again.version) == (0, first.ref.version)


def test_a_text_may_be_in_pool_and_target(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    pool, target = Dataset(ws, store(ws, ["a"])), Dataset(ws, store(ws, ["a"], role="target"))
    assert pool.content_ids[0] == target.content_ids[0]
    assert pool.example_ids[0] != target.example_ids[0]


def test_texts_are_given_as_read_although_the_hash_is_normalised(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    store(ws, ["cafe\u0301"])
    d = Dataset(ws, store(ws, ["caf\u00e9"]))
    assert d.texts(d.content_ids).prompts == ("caf\u00e9",)


def test_a_damaged_block_is_stored_anew(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    d = Dataset(ws, store(ws, ["a", "b"]))
    d.blocks[0].unlink()
    ref = store(ws, ["a", "b"])
    assert ref.new_rows == 2
    assert Dataset(ws, ref).texts(d.content_ids).prompts == ("a", "b")


def test_another_mapping_of_columns_is_another_version(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    plain = store(ws, ["a", "b"])
    mapped = [replace(e, task="t", source_id=str(e.row_number)) for e in examples(["a", "b"])]
    ref = store_dataset(ws, mapped, dataset="d", role="pool", block_rows=4, fingerprint="f")
    assert ref.version != plain.version
    assert ref.new_rows == 0
    assert Dataset(ws, ref).tasks() == ["t", "t"]


def test_a_new_block_never_takes_the_number_of_a_damaged_one(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    d = Dataset(ws, store(ws, ["a", "b", "c", "d", "e"]))
    d.blocks[0].write_bytes(b"broken")
    again = Dataset(ws, store(ws, ["a", "b", "c", "d", "e", "f"]))
    assert [b.name[:6] for b in again.blocks] == ["000001", "000002", "000003"]
    assert sorted(again.texts(again.contents).prompts) == ["a", "b", "c", "d", "e", "f"]


@pytest.mark.parametrize("part", [1, 2, 3, 6, 7])
def test_rows_are_stored_alike_whatever_part_of_them_is_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(dataset_writer, "_PART", part)
    texts = ["a", "b", "a", "c", "a", "e"]
    ws = Workspace.create(tmp_path / "ws")
    before = store(ws, texts[1:4])
    ref = store(ws, texts)
    assert (before.new_rows, ref.rows, ref.new_rows) == (3, 6, 3)
    d = Dataset(ws, ref)
    assert [json.loads(r)["prompt"] for r in d.records()] == texts
    assert d.texts(d.content_ids).prompts == tuple(texts)
    # The version is the digest of the file's columns.
    columns = pq.read_table(ws.root / ref.path).select(VERSION_SCHEMA.names)
    assert ref.version == digest([columns[name].to_pylist() for name in VERSION_SCHEMA.names])
    assert d.rows["row_number"].to_pylist() == list(range(6))


def test_a_version_without_rows_is_one(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    ref = store(ws, [])
    assert (ref.rows, ref.new_rows) == (0, 0)
    assert Dataset(ws, ref).records() == []
