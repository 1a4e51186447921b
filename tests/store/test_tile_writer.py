"""The writing thread: everything put is stored, failures come back, nothing is written after one."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from nncift_core.store.segments import SegmentStore
from nncift_core.store.tile_writer import DEPTH, TileWriter
from nncift_core.store.workspace import Workspace

COLUMNS = np.arange(100, 103)


@pytest.fixture
def store(tmp_path: Path) -> SegmentStore:
    return SegmentStore(Workspace.create(tmp_path / "ws"), "estimate", "k" * 32)


def tile(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array([2 * n, 2 * n + 1]), COLUMNS, np.full((2, 3), n, np.float32)


def test_all_that_was_put_is_stored_when_the_context_ends(store: SegmentStore) -> None:
    with TileWriter(store, producer="test") as writer:
        for n in range(7):
            writer.put(*tile(n))
    out = np.zeros((14, 3), np.float32)
    SegmentStore(store.ws, "estimate", store.key).fill(np.arange(14), COLUMNS, out)
    assert np.array_equal(out, np.repeat(np.arange(7), 2)[:, None] * np.ones(3))


def test_a_failure_is_raised_and_nothing_is_written_after_it(store: SegmentStore) -> None:
    bad = (*tile(1)[:2], np.full((2, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="6 influence values are not finite"):
        with TileWriter(store, producer="test") as writer:
            writer.put(*tile(0))
            writer.put(*bad)
            for n in range(2, 12):
                writer.put(*tile(n))
    assert len(store.files()) <= 1
    assert not [t for t in threading.enumerate() if t.name == "tile-writer"]


def test_leaving_by_an_exception_drops_what_waits(
    store: SegmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go = threading.Event(), threading.Event()
    write = store.write_tile

    def slow(*tile_: object, **about: object) -> str:
        started.set()
        assert go.wait(10)
        return write(*tile_, **about)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "write_tile", slow)
    with pytest.raises(KeyboardInterrupt):
        with TileWriter(store, producer="test") as writer:
            writer.put(*tile(0))
            assert started.wait(10)
            writer.put(*tile(1))
            threading.Timer(0.2, go.set).start()
            raise KeyboardInterrupt
    assert len(store.files()) == 1, "the one in flight"


def test_a_full_queue_makes_put_wait(store: SegmentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(store, "write_tile", lambda *a, **k: go.wait(10))
    done: list[int] = []

    def produce() -> None:
        with TileWriter(store, producer="test") as writer:
            for n in range(DEPTH + 4):
                writer.put(*tile(n))
                done.append(n)

    thread = threading.Thread(target=produce)
    thread.start()
    thread.join(0.5)
    assert len(done) <= DEPTH + 1 and thread.is_alive()
    go.set()
    thread.join(10)
    assert len(done) == DEPTH + 4
