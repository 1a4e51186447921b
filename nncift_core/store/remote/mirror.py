"""The mirror of a store on this machine: what was computed anywhere, with payloads fetched when read.

A payload goes to the store before the manifest that makes it exist, and both before they count here. What
others wrote comes in by the journal: manifests and documents at once, payloads of the large kinds as empty
files, which stand for them until somebody reads them. A mirror may be deleted whenever nothing runs on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from nncift_core.errors import IntegrityError, UserError
from nncift_core.store.locks import locked
from nncift_core.store.remote import untold
from nncift_core.store.remote.journal import MANY, Change, Journal
from nncift_core.store.remote.leases import Leases
from nncift_core.store.remote.ledger import Ledger
from nncift_core.store.remote.local import (
    MANIFEST_SUFFIX,
    artifact_turn,
    is_away,
    key_of,
    manifest_path,
    read,
    told_of,
    write,
)
from nncift_core.store.remote.objects import Objects

MARK = "nncift.json"
FOLDER = "mirror"
# Payloads that are fetched when they are read: all of these folders, and large ones of the others.
_SHARDS = ("exact", "estimates", "embeddings", "features")
_LARGE = ("states", "adapters", "classifiers")
_LARGE_BYTES = 1_000_000
# What is of this machine alone.
_OWN = ("locks", "tmp", FOLDER, MARK, "calibration.json")
# Longer documents are objects of their own.
_INLINE = 32_768


class Mirror:
    """The mirror of the workspace at `url`; made on first use."""

    def __init__(self, url: str, root: Path) -> None:
        self.url, self.root = url, root
        self.objects = Objects(url)
        self.leases = Leases(self.objects)
        self.own = root / FOLDER
        self.ledger = Ledger(self.own / "ledger.sqlite")
        self._pulled = float("-inf")
        self._mark: bytes | None = None
        self._writable = False
        self._pulling = threading.Lock()

    @cached_property
    def origin(self) -> str:
        """By which the store knows what was written through this mirror."""
        path = self.own / "mirror.json"
        with self._turn("made"):
            if not path.is_file():
                write(path, json.dumps({"url": self.url, "origin": uuid.uuid4().hex[:8]}).encode())
            found: str = json.loads(path.read_text(encoding="utf-8"))["origin"]
        return found

    @cached_property
    def journal(self) -> Journal:
        """The store's journal."""
        return Journal(self.objects, self.origin)

    def put_payload(self, file: Path, artifact: str, sha256: str) -> None:
        """Put a payload into the store, where nothing names it yet; file: one that nobody else touches."""
        self.objects.upload(file, key_of(artifact, sha256))

    def share(self, path: Path, text: str) -> tuple[str, str] | None:
        """Put a document that is to stand at `path` into the store, if others need it; or a manifest, whose
        payload is there. Called before it counts here; the answer is for `note`, once it does."""
        relative = self._shared(path)
        if relative is None:
            return None
        if relative.endswith(MANIFEST_SUFFIX):
            told = json.loads(text)
            return self._told({"path": told["artifact"], "manifest": told})
        if len(data := text.encode("utf-8")) > _INLINE:
            key = key_of(relative, hashlib.sha256(data).hexdigest())
            self.objects.put(key, data)
            return self._told({"path": relative, "object": key})
        return self._told({"path": relative, "text": text})

    def share_line(self, path: Path, line: str) -> None:
        """Tell others of a line that is added to the file at `path`."""
        self.journal.append({"path": path.relative_to(self.root).as_posix(), "line": line})

    def forget(self, path: Path) -> tuple[str, str] | None:
        """Take a document out of the store, or a payload's manifest (`discard` takes the payload); the file
        here stays. The answer is for `note`, once it is gone."""
        relative = self._shared(path)
        if relative is None:
            return None
        change = self._told({"path": relative.removesuffix(MANIFEST_SUFFIX), "removed": True})
        if not manifest_path(path).is_file() and len(text := read(path) or b"") > _INLINE:
            self.discard(relative, hashlib.sha256(text).hexdigest())
        return change

    def note(self, change: tuple[str, str] | None) -> None:
        """A change that `share` or `forget` told of is in force here. What a kill kept from being noted is
        taken from the journal."""
        if change is not None:
            self.ledger.note([change])

    def discard(self, artifact: str, sha256: str) -> None:
        """Delete a payload of the store that nothing names any more."""
        self.objects.delete([key_of(artifact, sha256)])

    def _told(self, body: dict[str, Any]) -> tuple[str, str]:
        return str(body["path"]), self.journal.append(body)

    def _shared(self, path: Path) -> str | None:
        parts = path.relative_to(self.root).parts
        asked = parts[0] == "tmp" and parts[-1].startswith("group-")
        return None if parts[0] in _OWN and not asked else "/".join(parts)

    def pull(self, max_age: float = 0.0) -> None:
        """Bring in what others wrote, unless somebody here looked within `max_age` seconds."""
        with self._pulling:
            begun = time.monotonic()
            if begun - self._pulled <= max_age:
                return
            with self._turn("pull"):
                untold.tell(self)
                seen = self.ledger.seen()
                changes, now = self.journal.follow(seen)
                if changes or now != seen:
                    self._apply(changes)
                    self.ledger.save(now)
            self._pulled = begun
        if len(now.new) > MANY:
            self._merge(now.new)

    def _merge(self, names: set[str]) -> None:
        try:
            with self.leases.held("merge", _not_now):
                self.journal.merge(names)
        except _Taken:
            return

    def _apply(self, changes: list[Change]) -> None:
        # Of each path the last word counts, wherever it comes from and whenever; lines all count.
        last = {str(c.body["path"]): c for c in changes if "line" not in c.body}
        known = self.ledger.in_force(last)
        todo = {path: c for path, c in last.items() if c.name > known.get(path, "")}
        self.objects.each(todo.values(), self._put)
        self.ledger.note((path, c.name) for path, c in todo.items())
        mine = self.origin
        for c in changes:
            if "line" in c.body and c.origin != mine and self.ledger.is_new_line(c.name):
                self._add_line(c)

    def _put(self, change: Change) -> None:
        body, path = change.body, self.root / change.body["path"]
        if "removed" in body:
            with artifact_turn(self.root, body["path"]):
                manifest_path(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
        elif "manifest" in body:
            self._put_payload(path, body["manifest"])
        elif (data := self._document(body)) is not None:
            write(path, data)

    def _document(self, body: dict[str, Any]) -> bytes | None:
        if "text" in body:
            return str(body["text"]).encode("utf-8")
        return self.objects.get(body["object"])

    def _put_payload(self, path: Path, told: dict[str, Any]) -> None:
        kind = told["artifact"].split("/")[0]
        lazy = kind in _SHARDS or (kind in _LARGE and told["size"] > _LARGE_BYTES)
        with artifact_turn(self.root, told["artifact"]):
            if (own := told_of(path)) is not None and own["sha256"] == told["sha256"] and path.is_file():
                return
            if lazy:
                # The old manifest must not stand beside the new file, not even a moment.
                manifest_path(path).unlink(missing_ok=True)
                write(path, b"")
                write(manifest_path(path), json.dumps({**told, "stamp": None}).encode())
        if not lazy:
            self._download(path, told)

    def _add_line(self, change: Change) -> None:
        path = self.root / change.body["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            f.write(change.body["line"].encode("utf-8"))

    def fetch(self, path: Path) -> bool:
        """Bring the payload of `path` here anew; whether it is there and matches its manifest."""
        told = told_of(path)
        if told is None or not self._download(path, told):
            # Replaced meanwhile: then the new one counts.
            now = told_of(path)
            return now is not None and now != told and self._download(path, now)
        return True

    def _download(self, path: Path, told: dict[str, Any]) -> bool:
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            if not self.objects.download(key_of(told["artifact"], told["sha256"]), part):
                return False
            with part.open("rb") as f:
                if hashlib.file_digest(f, "sha256").hexdigest() != told["sha256"]:
                    return False
            stat = part.stat()
            with artifact_turn(self.root, told["artifact"]):
                own = told_of(path)
                if own is not None and own["created_at"] > told["created_at"]:
                    return bool(own["sha256"] == told["sha256"])
                os.replace(part, path)
                stamp = [stat.st_ino, stat.st_mtime_ns]
                write(manifest_path(path), json.dumps({**told, "stamp": stamp}).encode())
        finally:
            part.unlink(missing_ok=True)
        return True

    def tail(self, path: Path, size: int) -> bytes | None:
        """The last `size` bytes of a payload that is not here."""
        told = told_of(path)
        return None if told is None else self.objects.tail(key_of(told["artifact"], told["sha256"]), size)

    def bring(self, paths: Iterable[Path]) -> None:
        """Fetch the payloads that are not here, several at once. Raises IntegrityError if one is lost."""
        away = [p for p in dict.fromkeys(paths) if is_away(p)]
        for path, found in zip(away, self.objects.each(away, self.fetch), strict=True):
            if not found:
                # Now it counts as missing, and is computed again.
                manifest_path(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                raise IntegrityError(
                    f"{path.relative_to(self.root).as_posix()}: lost or damaged in the store {self.url}; "
                    "run again to recompute it"
                )

    def number(self, series: str, at_least: int) -> int:
        """The next free number of `series`, which nobody else gets."""
        number = at_least
        while not self.objects.create(f"numbers/{series}/{number:04d}", self.origin.encode() + os.urandom(8)):
            number += 1
        return number

    def adopt(self, make: Callable[[], dict[str, Any]] | None) -> dict[str, Any] | None:
        """The workspace's mark in the store, made by `make` if there is none and nothing else either.

        None where there is none. Raises UserError where the place is in other use or cannot be written.
        """
        data = self._mark or self.objects.get(MARK)
        if data is None and make is not None:
            # Somebody else may be making it at this moment.
            if not self.objects.is_empty() and self.objects.get(MARK) is None:
                raise UserError(
                    "is not empty and is no nncift workspace",
                    file=self.url,
                    mend="Choose a prefix of its own.",
                )
            self.objects.create(MARK, json.dumps(make()).encode())
            data = self.objects.get(MARK)
        if data is None:
            return None
        self._mark = data
        if read(self.root / MARK) != data:
            write(self.root / MARK, data)
        found: dict[str, Any] = json.loads(data)
        return found

    def check_writable(self) -> None:
        """Write and delete an object, once. Raises UserError where these credentials may not."""
        if self._writable:
            return
        key = f"checks/{uuid.uuid4().hex}"
        self.objects.put(key, b"")
        self.objects.delete([key])
        self._writable = True

    def _turn(self, name: str) -> contextlib.AbstractContextManager[None]:
        return locked(self.own / f"{name}.lock")


class _Taken(Exception):
    """Somebody else does it."""


def _not_now() -> None:
    raise _Taken
