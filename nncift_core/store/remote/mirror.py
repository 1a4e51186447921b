"""The mirror of a store on this machine: what was computed anywhere, with payloads fetched when read.

A payload goes to the store before the manifest that makes it exist, and both before they count here. What
others wrote comes in by the journal: manifests and documents at once, payloads of the large kinds as empty
files, which stand for them until somebody reads them. A mirror may be deleted whenever nothing runs on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
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
from nncift_core.store.remote import incoming, untold
from nncift_core.store.remote.address import VARIABLE
from nncift_core.store.remote.journal import MANY, Journal
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
# What is of this machine alone.
_OWN = ("locks", "tmp", FOLDER, MARK, "calibration.json")
# Longer documents are objects of their own.
_INLINE = 32_768
# Seconds by which a machine's clock may be off before it is told.
_CLOCK = 5.0
_LOG = logging.getLogger("nncift.store")


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
        relative = self.shared(path)
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
        """Tell others of a line that was added to the file at `path`; at the next look, where the store is
        away now. Raises UserError then."""
        body = {"path": path.relative_to(self.root).as_posix(), "line": line}
        note = untold.keep(self, body)
        self.journal.append(body)
        note.unlink(missing_ok=True)

    def forget(self, path: Path) -> tuple[str, str] | None:
        """Take a document out of the store, or a payload's manifest (`discard` takes the payload); the file
        here stays. The answer is for `note`, once it is gone."""
        relative = self.shared(path)
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
        path = str(body["path"])
        return path, self.journal.append(body, after=self.ledger.in_force([path]).get(path, ""))

    def shared(self, path: Path) -> str | None:
        """The path by which all machines know a file; None for one that is of this machine alone."""
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
                    incoming.apply(self, changes)
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

    def fetch(self, path: Path) -> bool:
        """Bring the payload of `path` here anew; whether it is there and matches its manifest."""
        told = told_of(path)
        if told is None or not self.download(path, told):
            # Replaced meanwhile: then the new one counts.
            now = told_of(path)
            return now is not None and now != told and self.download(path, now)
        return True

    def download(self, path: Path, told: dict[str, Any]) -> bool:
        """Bring the payload that a manifest tells of here, with the manifest; whether it is right.

        Where a later one stands at `path`, that stays.
        """
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
        data, own = self._mark or self.objects.get(MARK), read(self.root / MARK)
        if data is None and own is not None and make is not None:
            raise self._another("nothing is there any more")
        if data is None and make is not None:
            # Somebody else may be making it at this moment.
            if not self.objects.is_empty() and self.objects.get(MARK) is None:
                raise UserError(
                    "is not empty and is no nncift workspace",
                    file=self.url,
                    mend="Choose a prefix of its own.",
                )
            self.objects.create(MARK, json.dumps({**make(), "id": uuid.uuid4().hex}).encode())
            data = self.objects.get(MARK)
        if data is None:
            return None
        if own is None:
            self._begun(data)
        elif own != data:
            raise self._another("another workspace was made there since")
        self._mark = data
        found: dict[str, Any] = json.loads(data)
        return found

    def _begun(self, mark: bytes) -> None:
        try:
            write(self.root / MARK, mark)
        except OSError as e:
            raise UserError(
                f"this machine's copy of {self.url} cannot be written ({e.strerror})",
                file=self.root,
                mend=f"Set {VARIABLE} to a folder that can be written.",
            ) from None

    def _another(self, why: str) -> UserError:
        return UserError(
            f"this machine has a copy of a workspace that was in the store, but {why}",
            file=self.url,
            mend=f"Mend --workspace; or, if the new one is meant, delete the copy: {self.root}",
        )

    def check_writable(self) -> None:
        """Write and delete an object, once. Raises UserError where these credentials may not."""
        if self._writable:
            return
        key = f"checks/{uuid.uuid4().hex}"
        self.objects.put(key, b"")
        off = self.objects.clock_off(key)
        self.objects.delete([key])
        self._writable = True
        if abs(off) > _CLOCK:
            way = "ahead of" if off > 0 else "behind"
            _LOG.warning(
                "this machine's clock is %.0f s %s that of %s: set it right, for machines whose clocks "
                "do not agree within seconds take each other for dead", abs(off), way, self.url,
            )  # fmt: skip

    def _turn(self, name: str) -> contextlib.AbstractContextManager[None]:
        return locked(self.own / f"{name}.lock")


class _Taken(Exception):
    """Somebody else does it."""


def _not_now() -> None:
    raise _Taken
