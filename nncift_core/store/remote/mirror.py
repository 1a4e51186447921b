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
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from nncift_core.errors import IntegrityError, UserError
from nncift_core.store.remote.address import mirror_of
from nncift_core.store.remote.journal import MANY, Change, Journal, Seen
from nncift_core.store.remote.leases import Leases
from nncift_core.store.remote.objects import Objects, S, T

MARK = "nncift.json"
_MANIFEST = ".manifest.json"
_FOLDER = "mirror"
# Payloads that are fetched when they are read: all of these folders, and large ones of the others.
_SHARDS = ("exact", "estimates", "embeddings", "features")
_LARGE = ("states", "adapters", "classifiers")
_LARGE_BYTES = 1_000_000
# What is of this machine alone.
_OWN = ("locks", "tmp", _FOLDER, MARK, "calibration.json")
# Longer documents are objects of their own.
_INLINE = 32_768


class Mirror:
    """The mirror of the workspace at `url`; made on first use."""

    def __init__(self, url: str, root: Path) -> None:
        self.url, self.root = url, root
        self.objects = Objects(url)
        self.leases = Leases(self.objects)
        self._pulled = float("-inf")
        self._mark: bytes | None = None
        self._writable = False
        self._pulling = threading.Lock()

    @cached_property
    def origin(self) -> str:
        """By which the store knows what was written through this mirror."""
        path = self.root / _FOLDER / "mirror.json"
        with self._turn("made"):
            if not path.is_file():
                _write(path, json.dumps({"url": self.url, "origin": uuid.uuid4().hex[:8]}).encode())
            found: str = json.loads(path.read_text(encoding="utf-8"))["origin"]
        return found

    @cached_property
    def journal(self) -> Journal:
        """The store's journal."""
        return Journal(self.objects, self.origin)

    def share(self, path: Path, text: str) -> None:
        """Put a document that is to stand at `path` into the store, if others need it; a manifest after the
        payload that it tells of. Called before it counts here."""
        relative = self._shared(path)
        if relative is None:
            return
        if relative.endswith(_MANIFEST):
            told = json.loads(text)
            payload = self.root / told["artifact"]
            self.objects.upload(payload, _key(told["artifact"], told["sha256"]))
            self.journal.append({"path": told["artifact"], "manifest": told})
        elif len(data := text.encode("utf-8")) > _INLINE:
            key = _key(relative, hashlib.sha256(data).hexdigest())
            self.objects.put(key, data)
            self.journal.append({"path": relative, "object": key})
        else:
            self.journal.append({"path": relative, "text": text})

    def share_line(self, path: Path, line: str) -> None:
        """Tell others of a line that is added to the file at `path`."""
        self.journal.append({"path": path.relative_to(self.root).as_posix(), "line": line})

    def forget(self, path: Path) -> None:
        """Take a document out of the store, or a payload's manifest (`discard` takes the payload); the file
        here stays."""
        relative = self._shared(path)
        if relative is None:
            return
        self.journal.append({"path": relative.removesuffix(_MANIFEST), "removed": True})
        if not _manifest_of(path).is_file() and len(text := _read(path) or b"") > _INLINE:
            self.discard(relative, hashlib.sha256(text).hexdigest())

    def discard(self, artifact: str, sha256: str) -> None:
        """Delete a payload of the store that nothing names any more."""
        self.objects.delete([_key(artifact, sha256)])

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
            state = self.root / _FOLDER / "seen.json"
            with self._turn("pull"):
                seen = Seen.read(state.read_text(encoding="utf-8")) if state.is_file() else Seen(set(), set())
                changes, now = self.journal.follow(seen)
                if changes or now != seen:
                    self._apply(changes)
                    _write(state, now.told().encode("utf-8"))
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
        # Of each path the last word counts; lines all count.
        last = {c.body["path"]: c for c in changes if "line" not in c.body}
        mine = self.origin
        todo = [c for c in last.values() if c.origin != mine or "removed" in c.body or not self._there(c)]
        self.objects.each(todo, self._put)
        for c in changes:
            if "line" in c.body and c.origin != mine:
                self._add_line(c)

    def _there(self, change: Change) -> bool:
        """Whether a change that was made here is in force here: a kill may have come between."""
        path = self.root / change.body["path"]
        return (_manifest_of(path) if "manifest" in change.body else path).is_file()

    def _put(self, change: Change) -> None:
        body, path = change.body, self.root / change.body["path"]
        if "removed" in body:
            _manifest_of(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        elif "manifest" in body:
            self._put_payload(path, body["manifest"])
        elif (data := self._document(body)) is not None:
            _write(path, data)

    def _document(self, body: dict[str, Any]) -> bytes | None:
        if "text" in body:
            return str(body["text"]).encode("utf-8")
        return self.objects.get(body["object"])

    def _put_payload(self, path: Path, told: dict[str, Any]) -> None:
        if _sha_of(_manifest_of(path)) == told["sha256"] and path.is_file():
            return
        kind = told["artifact"].split("/")[0]
        if kind in _SHARDS or (kind in _LARGE and told["size"] > _LARGE_BYTES):
            # The old manifest must not stand beside the new file, not even a moment.
            _manifest_of(path).unlink(missing_ok=True)
            _write(path, b"")
            _write(_manifest_of(path), json.dumps({**told, "stamp": None}).encode())
        else:
            self._download(path, told)

    def _add_line(self, change: Change) -> None:
        path = self.root / change.body["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            f.write(change.body["line"].encode("utf-8"))

    def fetch(self, path: Path) -> bool:
        """Bring the payload of `path` here anew; whether it is there and matches its manifest."""
        try:
            told = json.loads(_manifest_of(path).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return False
        return self._download(path, told)

    def _download(self, path: Path, told: dict[str, Any]) -> bool:
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            if not self.objects.download(_key(told["artifact"], told["sha256"]), part):
                return False
            with part.open("rb") as f:
                if hashlib.file_digest(f, "sha256").hexdigest() != told["sha256"]:
                    return False
            stat = part.stat()
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        stamp = [stat.st_ino, stat.st_mtime_ns]
        _write(_manifest_of(path), json.dumps({**told, "stamp": stamp}).encode())
        return True

    def tail(self, path: Path, size: int) -> bytes | None:
        """The last `size` bytes of a payload that is not here."""
        told = json.loads(_manifest_of(path).read_text(encoding="utf-8"))
        return self.objects.tail(_key(told["artifact"], told["sha256"]), size)

    def bring(self, paths: Iterable[Path]) -> None:
        """Fetch the payloads that are not here, several at once. Raises IntegrityError if one is lost."""
        away = [p for p in dict.fromkeys(paths) if is_away(p)]
        for path, found in zip(away, self.objects.each(away, self.fetch), strict=True):
            if not found:
                # Now it counts as missing, and is computed again.
                _manifest_of(path).unlink(missing_ok=True)
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
            if not self.objects.is_empty():
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
        if _read(self.root / MARK) != data:
            _write(self.root / MARK, data)
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

    @contextlib.contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        path = self.root / _FOLDER / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            yield


class _Taken(Exception):
    """Somebody else does it."""


def _not_now() -> None:
    raise _Taken


# By folder: the mirrors of this process. Whoever opens a workspace's folder gets its mirror here.
_MIRRORS: dict[str, Mirror] = {}


def mirror_at(url: str) -> Mirror:
    """The mirror of `url` on this machine."""
    root = mirror_of(url)
    return _MIRRORS.setdefault(str(root), Mirror(url, root))


def opened(root: Path) -> Mirror | None:
    """The mirror that the folder `root` is, if it is one."""
    if (known := _MIRRORS.get(str(root))) is not None:
        return known
    told = root / _FOLDER / "mirror.json"
    if not told.is_file():
        return None
    url = json.loads(told.read_text(encoding="utf-8"))["url"]
    return _MIRRORS.setdefault(str(root), Mirror(url, root))


def mirror_for(path: Path) -> Mirror | None:
    """The mirror in which `path` lies, among those that this process has opened."""
    if not _MIRRORS:
        return None
    text = str(path)
    return next((m for root, m in _MIRRORS.items() if text.startswith(f"{root}{os.sep}")), None)


def is_away(path: Path) -> bool:
    """Whether `path` stands for a payload that is in the store and not here."""
    try:
        return path.stat().st_size == 0 and _manifest_of(path).is_file()
    except FileNotFoundError:
        return False


def here(path: Path) -> Path:
    """`path`, once its payload is on this machine. Raises IntegrityError for one that is lost."""
    if (mirror := mirror_for(path)) is not None:
        mirror.bring([path])
    return path


def bring(folder: Path, paths: Iterable[Path]) -> None:
    """Fetch the payloads among `paths`, all in `folder`, that are not on this machine. Raises as `here`."""
    if (mirror := mirror_for(folder)) is not None:
        mirror.bring(paths)


def each(folder: Path, items: Iterable[S], do: Callable[[S], T]) -> list[T]:
    """`do` of every item, in order; some at a time where `folder` lies in a mirror, whose store is far."""
    if (mirror := mirror_for(folder)) is not None:
        return mirror.objects.each(items, do)
    return [do(item) for item in items]


def _key(artifact: str, sha256: str) -> str:
    """The name of a payload in the store: written once, for it holds what it says."""
    return f"data/{artifact}@{sha256[:16]}"


def _manifest_of(path: Path) -> Path:
    return path.with_name(path.name + _MANIFEST)


def _sha_of(manifest: Path) -> str | None:
    try:
        found: str = json.loads(manifest.read_text(encoding="utf-8"))["sha256"]
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return found


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write(path: Path, data: bytes) -> None:
    """A file of the mirror, in one step; it can be had again, so nothing waits for the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    part.write_bytes(data)
    os.replace(part, path)
