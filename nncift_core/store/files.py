"""Atomic, verified files: payload first, manifest last; what has no manifest does not exist."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nncift_core.errors import IntegrityError, UserError
from nncift_core.store.remote.local import MANIFEST_SUFFIX as MANIFEST_SUFFIX
from nncift_core.store.remote.local import artifact_turn, document_turn, is_away
from nncift_core.store.remote.local import manifest_path as manifest_path
from nncift_core.store.remote.mirrors import mirror_for
from nncift_core.store.remote.untold import keep

# Payloads are written once, so a checksum that held for this inode and change time holds still.
_CHECKED: set[tuple[str, int, int, str]] = set()
# Seconds between two looks at a file that does not match its manifest.
_WAITS = (0.02, 0.1, 0.3, 0.0)


@dataclass(frozen=True)
class Manifest:
    """What stands beside every payload: what it is, what made it, and how to check it.

    kind: dataset-block, dataset-version, embedding, exact, estimate, estimator, ...; key: identity
    of the computation; parents: artifacts it was made from (relative paths or keys); meta: counts;
    made_in: "RUN/ATTEMPT" that was running, empty for files of an older store and of no run; stamp: inode
    and time of change of the file when its checksum was taken.
    """

    artifact: str
    kind: str
    key: str
    rows: int
    size: int
    sha256: str
    created_at: str
    producer: str
    parents: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    made_in: str = ""
    stamp: tuple[int, int] | None = None


# By workspace folder: the attempt for which this process writes.
_MADE_IN: dict[str, str] = {}


def made_in(root: Path) -> str:
    """The attempt, "RUN/ATTEMPT", that files written below `root` by this process belong to; or ""."""
    return _MADE_IN.get(str(root), "")


def write_for(root: Path, attempt: str) -> None:
    """From now on this process writes below `root` for `attempt`, "RUN/ATTEMPT"."""
    _MADE_IN[str(root)] = attempt


def now() -> str:
    """UTC time as ISO-8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file aside, fsync it, then rename it into place."""
    with _written_aside(path, write) as part:
        os.replace(part, path)


@contextlib.contextmanager
def _written_aside(path: Path, write: Callable[[Path], None]) -> Iterator[Path]:
    """A file beside `path` that `write` has filled, on disk; gone afterwards unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        write(part)
        with part.open("rb+") as f:
            os.fsync(f.fileno())
        yield part
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """One JSON document, atomically; in a mirror the store has it first."""
    mirror = mirror_for(path)
    if mirror is None:
        _write_text(path, _json(value))
        return
    # The manifest of a payload is written in the turn of its artifact.
    is_manifest = path.name.endswith(MANIFEST_SUFFIX)
    with contextlib.nullcontext() if is_manifest else document_turn(mirror.root, path):
        change = mirror.share(path, text := _json(value))
        _write_text(path, text)
        mirror.note(change)


def write_json_anyway(path: Path, value: Any) -> None:
    """As `write_json`, but here first: a store that is away has the document at this machine's next look."""
    mirror = mirror_for(path)
    if mirror is None:
        write_json(path, value)
        return
    _write_text(path, _json(value))
    note = keep(mirror, {"path": path.relative_to(mirror.root).as_posix()})
    with contextlib.suppress(UserError):
        write_json(path, value)
        note.unlink(missing_ok=True)


def _write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda p: void(p.write_text(text, encoding="utf-8")))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True)


def delete(path: Path) -> None:
    """Delete a document, or a payload, its manifest first: without one it does not exist, whatever happens
    meanwhile."""
    mirror, manifest = mirror_for(path), read_manifest(path)
    change = None if mirror is None else mirror.forget(path)
    manifest_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    if mirror is not None:
        mirror.note(change)
        if manifest is not None:
            mirror.discard(manifest.artifact, manifest.sha256)


def void(_: object) -> None:
    """Drop a value, so that an expression can serve as a callback."""


def publish(
    root: Path,
    path: Path,
    write: Callable[[Path], None],
    *,
    kind: str,
    key: str,
    rows: int,
    producer: str,
    parents: tuple[str, ...] = (),
    meta: dict[str, Any] | None = None,
) -> Manifest:
    """Write a payload atomically, then its manifest; only then can it be seen.

    Two writers of one name take turns at the last step, so that a payload never stays beside the manifest of
    another one, even where the same work gave other bytes.
    """
    with _written_aside(path, write) as part:
        stat = part.stat()
        manifest = Manifest(
            artifact=path.relative_to(root).as_posix(),
            kind=kind,
            key=key,
            rows=rows,
            size=stat.st_size,
            sha256=sha256_of(part),
            created_at=now(),
            producer=producer,
            parents=parents,
            meta=meta or {},
            made_in=made_in(root),
            stamp=(stat.st_ino, stat.st_mtime_ns),
        )
        if (mirror := mirror_for(path)) is not None:
            # What stands at `path` may be replaced at any moment; this file is ours.
            mirror.put_payload(part, manifest.artifact, manifest.sha256)
        with artifact_turn(root, manifest.artifact):
            os.replace(part, path)
            write_json(manifest_path(path), asdict(manifest))
    return manifest


def read_manifest(payload: Path) -> Manifest | None:
    """The manifest of `payload`, or None when there is none or it cannot be read."""
    try:
        data = json.loads(manifest_path(payload).read_text(encoding="utf-8"))
        stamp = tuple(data["stamp"]) if "stamp" in data and data["stamp"] else None
        return Manifest(**{**data, "parents": tuple(data["parents"]), "stamp": stamp})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        # ValueError: neither JSON nor, after a damage, always UTF-8.
        return None


def is_intact(payload: Path, *, unread: bool = False) -> bool:
    """Whether `payload` has a manifest and matches it in size and checksum.

    unread: the checksum is not taken of a file that nobody has touched since it was stored (inode and time of
    change). Planning over thousands of shards would read them all; whoever reads one has its pages checked.
    In a mirror the store's payload counts: unread, its manifest is taken at its word; else it is fetched
    if it is not here or damaged.
    """
    manifest = read_manifest(payload)
    if manifest is None or not payload.is_file():
        return False
    mirror = mirror_for(payload)
    if mirror is None or not is_away(payload):
        if _matches(payload, manifest, unread):
            return True
    elif unread:
        return True
    return mirror is not None and mirror.fetch(payload)


def _matches(payload: Path, manifest: Manifest, unread: bool) -> bool:
    """Whether a file has the size and, unless it was not touched and need not be read, the checksum."""
    stat = payload.stat()
    if stat.st_size != manifest.size:
        return False
    if unread and manifest.stamp == (stat.st_ino, stat.st_mtime_ns):
        return True
    seen = (str(payload), stat.st_ino, stat.st_mtime_ns, manifest.sha256)
    if seen not in _CHECKED:
        if sha256_of(payload) != manifest.sha256:
            return False
        _CHECKED.add(seen)
    return True


def verify(payload: Path) -> Manifest:
    """The manifest of `payload` after a full check; raises IntegrityError naming the file.

    Looks again for a moment: another writer of the same name may stand between payload and manifest.
    """
    for wait in _WAITS:
        manifest = read_manifest(payload)
        if manifest is not None and is_intact(payload):
            return manifest
        time.sleep(wait)
    raise IntegrityError(f"{payload.name}: stored file is missing or damaged; run again to recompute it")


def sum_counts(root: Path, artifacts: Iterable[str]) -> Counter[str]:
    """Whole numbers in the manifests' `meta`, summed over `artifacts` (relative paths)."""
    total: Counter[str] = Counter()
    for artifact in artifacts:
        manifest = read_manifest(root / artifact)
        if manifest is not None:
            total.update({k: v for k, v in manifest.meta.items() if isinstance(v, int)})
    return total
