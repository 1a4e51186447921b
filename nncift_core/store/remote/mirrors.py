"""The mirrors of this process, and how code that knows paths alone gets at what is not on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from nncift_core.store.remote.address import mirror_of
from nncift_core.store.remote.mirror import FOLDER, Mirror
from nncift_core.store.remote.objects import S, T

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
    told = root / FOLDER / "mirror.json"
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
