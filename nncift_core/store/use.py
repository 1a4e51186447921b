"""Who uses a workspace: runs share it, `nncift gc` wants it for itself."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator

from nncift_core.errors import UserError
from nncift_core.store.alive import all_alive, told_in_use
from nncift_core.store.workspace import Workspace

_LOCK = "workspace"
# Held in an object store while `nncift gc` is at work, for other machines.
_ALONE = "alone"
_LOOK = 2.0


@contextlib.contextmanager
def in_use(ws: Workspace) -> Iterator[None]:
    """Keep `nncift gc` out meanwhile; waits while it is at work. Any number hold it at once, also nested."""
    path = ws.lock(_LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with told_in_use(ws):
            while ws.mirror is not None and ws.mirror.leases.is_held(_ALONE):
                time.sleep(_LOOK)
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
            raise _used(ws) from None
        if ws.mirror is None:
            yield
            return
        # Who begins tells that it lives, then looks for this lease; here it is the other way round.
        with ws.mirror.leases.held(_ALONE, lambda: _refuse(ws)):
            if all_alive(ws):
                raise _used(ws)
            ws.mirror.pull()
            yield


def check_alone(ws: Workspace) -> None:
    """Raise UserError where `alone` has not been renewed in time: others may have begun since."""
    if ws.mirror is not None and not ws.mirror.leases.is_sure(_ALONE):
        raise UserError(
            "the store was out of reach for so long that others may use the workspace again",
            file=ws.address,
            mend="Run `nncift gc` again: what is deleted stays deleted, nothing that lives is missing.",
        )


def _refuse(ws: Workspace) -> None:
    raise _used(ws)


def _used(ws: Workspace) -> UserError:
    return UserError(
        "a run or another gc is going on here",
        file=ws.address,
        mend="Wait until it has ended (the view `runs` shows it), then try again.",
    )
