"""Folders of Parquet shards: which of them count, and how `nncift gc` takes rows out of one.

A shard keeps its name when it is rewritten, so that whatever names it stays true. Its living rows stand
meanwhile in a second shard beside it, the guard: at no moment is a living row only half written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.errors import IntegrityError
from nncift_core.store.files import (
    Manifest,
    delete,
    is_intact,
    manifest_path,
    read_manifest,
    sha256_of,
    void,
    write_atomic,
    write_json,
)
from nncift_core.store.remote.local import is_away
from nncift_core.store.remote.mirrors import here, mirror_for

GUARD = "rewrite-"
# Bytes at the end of a Parquet file in which its footer is looked for.
_TAILS = (65_536, 1_048_576)
# Seconds for which what others wrote to a store may stay unseen here.
_LOOK = 2.0
# Inode and time of change: another pair is another file under the same name.
Signature = tuple[int, int]


def signature(path: Path) -> Signature:
    """What tells a file from another one that took its name."""
    if mirror_for(path) is not None and (told := read_manifest(path)) is not None:
        # Fetching it makes another file of it, of the same rows.
        return int(told.sha256[:15], 16), 0
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


def readable(folder: Path) -> dict[str, Signature]:
    """Names of the intact shards of a folder, sorted; a guard only where what it guards is not intact."""
    if (mirror := mirror_for(folder)) is not None:
        mirror.pull(max_age=_LOOK)
    intact = (p for p in sorted(folder.glob("*.parquet")) if is_intact(p, unread=True))
    found = {p.name: signature(p) for p in intact}
    return {n: s for n, s in found.items() if not (is_guard(n) and n.removeprefix(GUARD) in found)}


def read_checked(path: Path, columns: list[str]) -> pa.Table:
    """Columns of a shard; raises IntegrityError where a page does not match its checksum.

    Shards of an older store have no checksums of their pages: they are read as they are.
    """
    here(path)
    try:
        return pq.read_table(path, columns=columns, page_checksum_verification=True)
    except (OSError, pa.ArrowInvalid) as e:
        if not path.is_file():
            raise
        touch(path)
        raise IntegrityError(
            f"{path.parent.name}/{path.name}: stored file is damaged ({e}); run again to recompute it"
        ) from None


def read_footer(path: Path) -> pa.Schema:
    """Schema of a shard, with its metadata; of one that lies in a store only the end is read."""
    if (mirror := mirror_for(path)) is None or not is_away(path):
        return pq.read_schema(path)
    for size in _TAILS:
        end = mirror.tail(path, size)
        if end is None or end[-4:] != b"PAR1":
            break
        if len(end) < size or int.from_bytes(end[-8:-4], "little") + 8 <= size:
            return pq.read_schema(pa.BufferReader(end))
    return pq.read_schema(here(path))


def touch(path: Path) -> None:
    """Make the next look at a shard take its checksum: what was read of it is not what was stored."""
    path.touch()


def is_guard(name: str) -> bool:
    """Whether a shard is the guard of another one."""
    return name.startswith(GUARD)


def guard_of(path: Path) -> Path:
    """Where the living rows of a shard stand while it is rewritten."""
    return path.with_name(GUARD + path.name)


def rewrite(root: Path, path: Path, write: Callable[[Path], None], rows: int) -> None:
    """Let `write` make the shard `path` anew from what is there, of `rows` rows, keeping name and history.

    Whatever kills it, shard or guard is intact. Afterwards both are: `remove_guard` ends it.
    """
    guard, told = guard_of(path), read_manifest(path)
    assert told is not None
    write_atomic(guard, write)
    _tell(root, guard, told, rows)
    _copy(root, guard, path)
    now = read_manifest(path)
    if (mirror := mirror_for(path)) is not None and now is not None and now.sha256 != told.sha256:
        mirror.discard(told.artifact, told.sha256)


def restore(root: Path, path: Path) -> None:
    """Put back from its intact guard a shard whose rewriting was killed."""
    _copy(root, guard_of(path), path)


def _copy(root: Path, guard: Path, path: Path) -> None:
    told = read_manifest(guard)
    assert told is not None
    write_atomic(path, lambda part: void(shutil.copyfile(guard, part)))
    _tell(root, path, told, told.rows)


def remove_guard(path: Path) -> None:
    """Take away the guard of a shard that is whole again."""
    delete(guard_of(path))


def _tell(root: Path, path: Path, told: Manifest, rows: int) -> None:
    """Write the manifest of a shard that holds other rows than `told`, but was made alike."""
    stat, artifact = path.stat(), path.relative_to(root).as_posix()
    now = replace(
        told, artifact=artifact, rows=rows, size=stat.st_size, sha256=sha256_of(path),
        stamp=(stat.st_ino, stat.st_mtime_ns),
    )  # fmt: skip
    if (mirror := mirror_for(path)) is not None:
        mirror.put_payload(path, now.artifact, now.sha256)
    write_json(manifest_path(path), asdict(now))
