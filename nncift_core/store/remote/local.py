"""Files of a mirror: how they are written and named, which of them stand for payloads that are away."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from nncift_core.store.locks import locked

MANIFEST_SUFFIX = ".manifest.json"


def manifest_path(path: Path) -> Path:
    """Where the manifest of a payload stands."""
    return path.with_name(path.name + MANIFEST_SUFFIX)


def told_of(path: Path) -> dict[str, Any] | None:
    """The manifest of a payload as JSON; None where there is none, or no whole one."""
    try:
        found: dict[str, Any] = json.loads(manifest_path(path).read_text(encoding="utf-8"))
        return found if "sha256" in found and "artifact" in found else None
    except (FileNotFoundError, ValueError, TypeError):
        return None


def is_away(path: Path) -> bool:
    """Whether `path` stands for a payload that is in the store and not here."""
    try:
        return path.stat().st_size == 0 and manifest_path(path).is_file()
    except FileNotFoundError:
        return False


def key_of(artifact: str, sha256: str) -> str:
    """The name of a payload in the store: written once, for it holds what it says."""
    return f"data/{artifact}@{sha256[:16]}"


def read(path: Path) -> bytes | None:
    """A file's bytes; None where there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(path: Path, data: bytes) -> None:
    """A file of the mirror, in one step; it can be had again, so nothing waits for the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    part.write_bytes(data)
    os.replace(part, path)


def add_line(root: Path, path: Path, line: bytes) -> None:
    """Add a whole line to a file that only grows, on disk when this returns."""
    with document_turn(root, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as f:
            # What a kill tore stays a line of its own.
            if f.tell():
                f.seek(-1, os.SEEK_END)
                line = line if f.read(1) == b"\n" else b"\n" + line
            f.write(line)
            f.flush()
            os.fsync(f.fileno())


def document_turn(root: Path, path: Path) -> AbstractContextManager[None]:
    """Change a document alone; within `artifact_turn`, where both are held."""
    relative = path.relative_to(root).as_posix()
    return locked(root / "locks" / f"document-{hashlib.sha256(relative.encode()).digest()[0] % 32:02d}.lock")


@contextmanager
def artifact_turn(root: Path, artifact: str) -> Iterator[None]:
    """Change payload and manifest of `artifact` together: a payload never stays beside the manifest of
    another one. The lock files are few, each for many artifacts."""
    path = root / "locks" / f"publish-{hashlib.sha256(artifact.encode()).digest()[0] % 32:02d}.lock"
    with locked(path):
        yield
