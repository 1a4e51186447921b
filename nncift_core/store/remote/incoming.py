"""Changes that other machines wrote to the journal, put in force on this one."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from nncift_core.errors import UserError
from nncift_core.store.remote.journal import Change
from nncift_core.store.remote.local import (
    add_line,
    artifact_turn,
    document_turn,
    manifest_path,
    told_of,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nncift_core.store.remote.mirror import Mirror

# Payloads that are fetched when they are read: all of these folders, and large ones of the others.
_SHARDS = ("exact", "estimates", "embeddings", "features")
_LARGE = ("states", "adapters", "classifiers")
LARGE_BYTES = 1_000_000


def apply(mirror: Mirror, changes: list[Change]) -> None:
    """Put `changes` in force: of each path the last one, wherever it comes from and whenever; of lines all.

    Raises UserError for a change that nncift cannot have written.
    """
    paths = {c.name: _inside(mirror, c) for c in changes}
    last = {str(c.body["path"]): c for c in changes if "line" not in c.body}
    known = mirror.ledger.in_force(last)
    todo = {path: c for path, c in last.items() if c.name > known.get(path, "")}
    with mirror.ledger.reading() as in_force:

        def overtaken(change: Change) -> bool:
            return in_force(change.body["path"]) > change.name

        mirror.objects.each(todo.values(), lambda c: _put(mirror, paths[c.name], c, overtaken))
    mirror.ledger.note((path, c.name) for path, c in todo.items())
    for c in changes:
        if "line" in c.body and c.origin != mirror.origin and not mirror.ledger.has_line(c.name):
            # Twice, after a kill in between, is better than never.
            add_line(mirror.root, paths[c.name], c.body["line"].encode("utf-8"))
            mirror.ledger.note_line(c.name)


def _inside(mirror: Mirror, change: Change) -> Path:
    """Where a change belongs on this machine."""
    told = PurePosixPath(str(change.body["path"]))
    path = mirror.root / told
    if told.is_absolute() or ".." in told.parts or not told.parts or mirror.shared(path) is None:
        raise UserError(
            f"the journal's {change.name} names {str(told)!r}, which is no file of a workspace",
            file=mirror.url,
            mend="nncift writes no such change: see who else may write there, then delete the object.",
        )
    return path


def _put(mirror: Mirror, path: Path, change: Change, overtaken: Callable[[Change], bool]) -> None:
    body = change.body
    if "manifest" in body:
        _put_payload(mirror, path, change, overtaken)
        return
    data = None if "removed" in body else _document(mirror, body)
    if data is None and "removed" not in body:
        # Replaced since: the change that did it is the next.
        return
    # A process of this machine may be writing the same at this moment.
    with artifact_turn(mirror.root, body["path"]), document_turn(mirror.root, path):
        if overtaken(change):
            return
        if data is not None:
            write(path, data)
        else:
            manifest_path(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _document(mirror: Mirror, body: dict[str, Any]) -> bytes | None:
    if "text" in body:
        return str(body["text"]).encode("utf-8")
    return mirror.objects.get(body["object"])


def _put_payload(mirror: Mirror, path: Path, change: Change, overtaken: Callable[[Change], bool]) -> None:
    told = change.body["manifest"]
    kind = told["artifact"].split("/")[0]
    lazy = kind in _SHARDS or (kind in _LARGE and told["size"] > LARGE_BYTES)
    if _is_here(path, told) or (not lazy and mirror.download(path, told)):
        return
    with artifact_turn(mirror.root, told["artifact"]):
        if _is_here(path, told) or overtaken(change):
            return
        # The old manifest must not stand beside the new file, not even a moment.
        manifest_path(path).unlink(missing_ok=True)
        write(path, b"")
        write(manifest_path(path), json.dumps({**told, "stamp": None}).encode())


def _is_here(path: Path, told: dict[str, Any]) -> bool:
    own = told_of(path)
    return own is not None and own["sha256"] == told["sha256"] and path.is_file()
