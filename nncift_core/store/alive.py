"""Which attempts live in a workspace: each holds a lock file of its own, which the kernel frees with it.

In an object store it holds a lease, too, for other machines."""

from __future__ import annotations

import contextlib
import fcntl
import uuid
from collections.abc import Iterator
from pathlib import Path

from nncift_core.store.workspace import Workspace

_LEASES, _USE = "alive", "use-"


def _folder(ws: Workspace) -> Path:
    return ws.lock("x").parent / "alive"


@contextlib.contextmanager
def alive(ws: Workspace, attempt: str) -> Iterator[None]:
    """Be counted by `others_alive` meanwhile; attempt: "RUN/ATTEMPT"."""
    path = _folder(ws) / attempt.replace("/", "-")
    path.parent.mkdir(parents=True, exist_ok=True)
    lease = ws.mirror.leases.told(_lease(attempt)) if ws.mirror else contextlib.nullcontext()
    with lease, path.open("a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def lives_elsewhere(ws: Workspace, attempt: str) -> bool:
    """Whether another machine has told lately that `attempt` lives."""
    return ws.mirror is not None and ws.mirror.leases.is_held(_lease(attempt))


@contextlib.contextmanager
def told_in_use(ws: Workspace) -> Iterator[None]:
    """Be counted by `all_alive` meanwhile, beside any attempt; nothing in a folder."""
    if ws.mirror is None:
        yield
        return
    with ws.mirror.leases.told(f"{_LEASES}/{_USE}{uuid.uuid4().hex}"):
        yield


def all_alive(ws: Workspace) -> list[str]:
    """What lives in a workspace of an object store, on whichever machine; nothing of a folder."""
    return ws.mirror.leases.all_held(_LEASES) if ws.mirror is not None else []


def _lease(attempt: str) -> str:
    return f"{_LEASES}/{attempt.replace('/', '-')}"


def others_alive(ws: Workspace, attempt: str) -> int:
    """How many attempts beside `attempt` live; what killed ones left behind on this machine is removed."""
    if ws.mirror is not None:
        return sum(name != _lease(attempt) for name in ws.mirror.leases.all_held(_LEASES, but=_USE))
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
