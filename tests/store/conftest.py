"""A workspace in fsspec's memory, as machines of several names have it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from store.machines import Machine

from nncift_core.store import shards
from nncift_core.store.remote import mirrors, objects
from nncift_core.store.remote.address import VARIABLE
from nncift_core.store.workspace import Workspace


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the workspace is; gone afterwards."""
    where = f"memory://bucket/{abs(hash(request.node.nodeid))}/ws"
    yield where
    fs = fsspec.filesystem("memory")
    if fs.exists(where):
        fs.rm(where, recursive=True)
    mirrors._MIRRORS.clear()


@pytest.fixture
def on(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The workspace as a machine of this name has it."""
    monkeypatch.setattr(shards, "_LOOK", 0.0)

    def at(name: str) -> Workspace:
        monkeypatch.setenv(VARIABLE, str(tmp_path / name))
        return Workspace.create(url)

    return at


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not answer is given up at once."""
    monkeypatch.setattr(objects, "_LONGEST_WAIT", 0.02)
    monkeypatch.setattr(objects, "FIRST", 0.1)
    monkeypatch.setattr(objects, "PATIENCE", 0.1)
