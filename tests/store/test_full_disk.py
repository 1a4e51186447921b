"""A full disk: the failure is raised, whole tiles stay, nothing half-written is ever read."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nncift_core.store.segments import SegmentStore
from nncift_core.store.tile_writer import TileWriter
from nncift_core.store.workspace import Workspace

COLUMNS = np.arange(10_000, 10_256)
ROWS = 128


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("this user may not mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def tile(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = np.random.default_rng(n).normal(size=(ROWS, len(COLUMNS))).astype(np.float32)
    return np.arange(n * ROWS, (n + 1) * ROWS), COLUMNS, values


def test_what_did_not_fit_is_computed_again_and_the_rest_is_whole(small_disk: Path) -> None:
    ws = Workspace.create(small_disk / "ws")
    store = SegmentStore(ws, "estimate", "k" * 32)
    with pytest.raises(OSError) as failure:
        with TileWriter(store, producer="test") as writer:
            for n in range(40):
                writer.put(*tile(n))
    assert failure.value.errno == errno.ENOSPC or "No space" in str(failure.value)
    again = SegmentStore(ws, "estimate", "k" * 32)
    whole = [n for n in range(40) if again.coverage(tile(n)[0], COLUMNS).any()]
    assert 1 <= len(whole) < 40
    for n in whole:
        rows, _, values = tile(n)
        out = np.full(values.shape, np.nan, np.float32)
        again.fill(rows, COLUMNS, out)
        assert np.array_equal(out, values)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    missing = next(n for n in range(40) if n not in whole)
    with TileWriter(again, producer="test") as writer:
        writer.put(*tile(missing))
    out = np.empty((ROWS, len(COLUMNS)), np.float32)
    SegmentStore(ws, "estimate", "k" * 32).fill(tile(missing)[0], COLUMNS, out)
    assert np.array_equal(out, tile(missing)[2])
