"""Which attempts live in a workspace: each holds a lock file of its own, which the kernel frees with it."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from nncift_core.store.workspace import Workspace


def _folder(ws: Workspace) -> Path:
    return ws.lock("x").parent / "alive"


@contextlib.contextmanager
def alive(ws: Workspace, attempt: str) -> Iterator[None]:
    """Be counted by `others_alive` meanwhile; attempt: "RUN/ATTEMPT"."""
    path = _folder(ws) / attempt.replace("/", "-")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def others_alive(ws: Workspace, attempt: str) -> int:
    """How many attempts beside `attempt` live on this host; what killed ones left behind is removed."""
    count = 0
    for path in sorted(_folder(ws).glob("*")):
        if path.name == attempt.replace("/", "-"):
            continue
        with contextlib.suppress(FileNotFoundError), path.open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                count += 1
                continue
            path.unlink(missing_ok=True)
    return count
