"""Whatever becomes of a manifest's bytes, reading it gives an answer; what does not match is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import writer
from nncift_core.store.files import is_intact, manifest_path, read_manifest
from nncift_core.store.segments import SegmentStore
from nncift_core.store.workspace import Workspace


@pytest.fixture
def tile(tmp_path: Path) -> Path:
    """A stored tile."""
    store = SegmentStore(Workspace.create(tmp_path / "ws"), "exact", writer.KEY)
    path = store.write_tile(writer.rows_of(0), writer.COLUMNS, writer.values_of(0), producer="faults")
    return tmp_path / "ws" / path


def test_no_flipped_bit_of_a_manifest_breaks_its_reader(tile: Path) -> None:
    path = manifest_path(tile)
    good, before = path.read_bytes(), read_manifest(tile)
    noticed = 0
    for place in range(len(good)):
        for bit in (0, 5, 7):
            data = bytearray(good)
            data[place] ^= 1 << bit
            path.write_bytes(data)
            if is_intact(tile):
                found = read_manifest(tile)
                assert before is not None and found is not None
                assert (found.size, found.sha256) == (before.size, before.sha256)
            else:
                noticed += 1
    assert noticed > len(good), "every bit 7 at least, for it makes no UTF-8"


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b'"x"', b"{}", b"\xff\xfe", b'{"parents": 3}'])
def test_a_manifest_that_is_none_counts_as_missing(tile: Path, text: bytes) -> None:
    manifest_path(tile).write_bytes(text)
    assert read_manifest(tile) is None and not is_intact(tile)
    assert not SegmentStore(Workspace(tile.parents[2]), "exact", writer.KEY).files()
