"""Who uses a workspace: runs share it, `nncift gc` wants it for itself."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator

from nncift_core.errors import UserError
from nncift_core.store.workspace import Workspace

_LOCK = "workspace"


@contextlib.contextmanager
def in_use(ws: Workspace) -> Iterator[None]:
    """Keep `nncift gc` out meanwhile; waits while it is at work. Any number hold it at once, also nested."""
    path = ws.lock(_LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def alone(ws: Workspace) -> Iterator[None]:
    """Hold the workspace while nobody uses it. Raises UserError at once when somebody does."""
    path = ws.lock(_LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "a run or another gc is going on here",
                file=ws.root,
                mend="Wait until it has ended (the view `runs` shows it), then try again.",
            ) from None
        yield
