"""Rows in append-only blocks (design decisions 1 and 2).

A block holds rows in order of arrival and is never changed. A version file lists the rows of one
reading, so that removed rows are simply not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from nncift_core.errors import IntegrityError
from nncift_core.ids import Sorted, distinct
from nncift_core.store.files import is_intact, verify
from nncift_core.store.references import DatasetRef
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]

BLOCK_SCHEMA = pa.schema(
    [
        ("example_id", pa.int64()),
        ("content_id", pa.int64()),
        ("text_id", pa.int64()),
        ("content_hash", pa.string()),
        ("prompt", pa.large_string()),
        ("response", pa.large_string()),
    ]
)
VERSION_SCHEMA = pa.schema(
    [
        ("example_id", pa.int64()),
        ("content_id", pa.int64()),
        ("text_id", pa.int64()),
        ("row_number", pa.int64()),
        ("source", pa.string()),
        ("source_id", pa.string()),
        ("task", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("record", pa.large_string()),
    ]
)


def blocks_of(folder: Path) -> list[Path]:
    """The whole blocks of a data set's folder, in order of arrival."""
    return sorted(p for p in (folder / "blocks").glob("*.parquet") if is_intact(p, unread=True))


@dataclass(frozen=True)
class Texts:
    """Texts of distinct contents: content_ids [n], n prompts, n responses."""

    content_ids: Int64
    prompts: tuple[str, ...]
    responses: tuple[str, ...]


def version_contents(ws: Workspace, ref: DatasetRef) -> Int64:
    """Distinct content ids [K] of a stored version, in file order; reads no texts.

    Raises IntegrityError when the version file is missing or damaged.
    """
    return distinct(_version(ws, ref, "content_id"))


def version_rows(ws: Workspace, ref: DatasetRef) -> Int64:
    """Example ids [rows] of a stored version, in file order. Raises as `version_contents`."""
    return _version(ws, ref, "example_id")


def _version(ws: Workspace, ref: DatasetRef, column: str) -> Int64:
    path = ws.root / ref.path
    verify(path)
    found: Int64 = pq.read_table(path, columns=[column])[column].to_numpy()
    return found


class Dataset:
    """A stored version: its rows in file order and its distinct contents in order of arrival.

    example_ids, content_ids, row_number [rows]; contents [K]: distinct content ids in order of
    arrival; block_of [K]: the block that each content lies in; blocks: names of the block files.
    """

    def __init__(self, ws: Workspace, ref: DatasetRef) -> None:
        self.ws, self.ref = ws, ref
        path = ws.root / ref.path
        verify(path)
        self._path = path
        self.rows: pa.Table = pq.read_table(path, columns=[n for n in VERSION_SCHEMA.names if n != "record"])
        self.example_ids: Int64 = self.rows["example_id"].to_numpy()
        self.content_ids: Int64 = self.rows["content_id"].to_numpy()
        self.folder = path.parent.parent
        self.blocks = blocks_of(self.folder)
        self.contents, self.block_of = self._arrival_order()

    def _arrival_order(self) -> tuple[Int64, Int64]:
        own, text_ids = Sorted(self.example_ids), self.rows["text_id"].to_numpy()
        contents, block_of = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for number, block in enumerate(self.blocks):
            t = pq.read_table(block, columns=["example_id", "content_id", "text_id"])
            at = own.find(t["example_id"].to_numpy())
            # An example id under another text is of another version.
            here = (at >= 0) & (text_ids[at] == t["text_id"].to_numpy()) if len(at) else np.empty(0, bool)
            contents.append(t["content_id"].to_numpy()[here])
            block_of.append(np.full(int(here.sum()), number, np.int64))
        found, numbers = np.concatenate(contents), np.concatenate(block_of)
        _, first = np.unique(found, return_index=True)
        first = np.sort(first)
        if len(first) != len(np.unique(self.content_ids)):
            raise IntegrityError(
                f"{self.ref.path}: some rows lie in no intact block; run again to store them anew"
            )
        return found[first], numbers[first]

    @cached_property
    def _place(self) -> Sorted:
        return Sorted(self.contents)

    def where(self, content_ids: Int64) -> Int64:
        """Index into `contents` of each of `content_ids` [n]; -1 for a content that is not here."""
        return self._place.find(content_ids)

    def shards(self) -> list[Int64]:
        """The distinct contents, block by block."""
        # In order of arrival the contents of a block stand beside each other.
        ends = np.flatnonzero(np.diff(self.block_of)) + 1
        return [shard for shard in np.split(self.contents, ends) if len(shard)]

    def texts(self, content_ids: Int64) -> Texts:
        """Texts of `content_ids` [n], in that order, as read. Reads only the blocks they lie in."""
        found: dict[int, tuple[str, str]] = {}
        wanted, places = np.unique(content_ids), self.where(content_ids)
        if (places < 0).any():
            raise KeyError(int(content_ids[places < 0][0]))
        for number in np.unique(self.block_of[places]).tolist():
            t = pq.read_table(self.blocks[number], columns=["content_id", "prompt", "response"])
            t = t.filter(pa.compute.is_in(t["content_id"], pa.array(wanted)))
            for c, p, r in zip(*(t[n].to_pylist() for n in t.column_names), strict=True):
                found.setdefault(c, (p, r))
        pairs = [found[int(c)] for c in content_ids]
        return Texts(content_ids, tuple(p for p, _ in pairs), tuple(r for _, r in pairs))

    def records(self, rows: Int64 | None = None) -> list[str]:
        """The user's records, JSON, of `rows` [n] (indices; all, when None). Read when asked for: they may be
        most of a data set."""
        column = pq.read_table(self._path, columns=["record"])["record"]
        found: list[str] = (column if rows is None else column.take(pa.array(rows))).to_pylist()
        return found

    def response_lengths(self) -> Int64:
        """Characters of every row's response [rows]; reads block by block."""
        length: dict[int, int] = {}
        for block in self.blocks:
            t = pq.read_table(block, columns=["content_id", "response"])
            counts = pa.compute.utf8_length(t["response"]).to_pylist()
            length.update(zip(t["content_id"].to_pylist(), counts, strict=True))
        return np.array([length[c] for c in self.content_ids.tolist()], dtype=np.int64)

    def tasks(self) -> list[str]:
        """Target task of every row: its `task` column, else the data set's name."""
        return [t if t is not None else self.ref.dataset for t in self.rows["task"].to_pylist()]


def is_stored(ws: Workspace, ref: dict[str, Any]) -> bool:
    """Whether a data set reference (as JSON) still has its version file and every block it needs."""
    try:
        Dataset(ws, DatasetRef.model_validate(ref))
    except (IntegrityError, ValidationError):
        return False
    return True
