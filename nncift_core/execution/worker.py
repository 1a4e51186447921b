"""The worker process: reads shards, one JSON line each, from stdin; answers with progress and results.

Lines out: {"advance": n}, {"to": [done, total]}, {"done": {...}} or {"error": {...}}. What libraries print
goes to stderr. The process ends with its parent, whichever way that ends, even while native code hangs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from nncift_core.execution.failures import packed
from nncift_core.execution.memory import peak_mb
from nncift_core.store.files import made_in

if TYPE_CHECKING:
    from nncift_core.execution.work import Request

# Seconds between two lines of progress; a line also says that the shard is alive.
_SAY_SECONDS = 0.2
# Where memory runs out, the kernel shall end this process rather than the one that runs the job.
_OOM_SCORE = "500"


class Listener(Protocol):
    """Who is told how far a shard is, in the process that computes it."""

    def advance(self, items: int) -> None:
        """`items` more are done."""

    def to(self, done: int, total: int) -> None:
        """`done` of `total` are done."""

    def flush(self) -> None:
        """Say what has not been said yet."""


class Told:
    """Progress as lines to the parent, added up so that fast work does not drown it."""

    def __init__(self, out: IO[str]) -> None:
        self._out, self._items, self._said = out, 0, 0.0

    def advance(self, items: int) -> None:
        """`items` more are done."""
        self._items += items
        if time.monotonic() - self._said >= _SAY_SECONDS:
            self.flush()

    def to(self, done: int, total: int) -> None:
        """`done` of `total` are done."""
        self.say({"to": [done, total]})

    def flush(self) -> None:
        """Say what has not been said yet."""
        self._said = time.monotonic()
        self.say({"advance": self._items})
        self._items = 0

    def say(self, message: dict[str, Any]) -> None:
        """One line."""
        print(json.dumps(message), file=self._out, flush=True)


def main(number: int, devices: Sequence[str], lifeline: int) -> None:
    """Serve shards on `devices` until stdin closes; number: of the slot; lifeline: a pipe that the parent
    keeps open and never writes to."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _end_with_parent(lifeline)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    told = Told(out)
    for line in sys.stdin:
        try:
            told.say({"done": answer(json.loads(line), number, devices, told)})
        except Exception as e:
            told.say({"error": packed(e)})


def message_of(request: Request) -> dict[str, Any]:
    """A shard as JSON, for `answer` in another process."""
    return {
        "work": request.work,
        "kind": request.job.kind,
        "job": request.job.model_dump(mode="json"),
        "shard": request.shard,
        "given": request.given,
        "made_in": made_in(request.job.ws.root),
    }


def answer(message: dict[str, Any], number: int, devices: Sequence[str], told: Listener) -> dict[str, Any]:
    """Compute the shard of `message_of` on slot `number` and its devices; returns its counts."""
    # Seconds of imports: within the first request, whose errors are told.
    from nncift_core.execution.models import Slot
    from nncift_core.execution.work import JOBS, Request, perform
    from nncift_core.store.files import write_for
    from nncift_core.store.use import in_use

    job = JOBS[message["kind"]].model_validate(message["job"])
    write_for(job.ws.root, message["made_in"])
    request = Request(message["work"], job, message["shard"], message["given"])
    # A worker may outlive a killed flow for a moment; nothing is collected from under it.
    with in_use(job.ws):
        computed = perform(request, Slot(number, devices[0], tuple(devices)), told)
    told.flush()
    return {"computed": computed, "peak_rss_mb": peak_mb()}


def _end_with_parent(lifeline: int) -> None:
    """End this process when the other end of the pipe closes.

    On Linux the kernel sends SIGKILL then, whatever this process does; elsewhere a thread watches.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:
        # Readable, and empty, only once the parent has gone.
        os.set_blocking(lifeline, True)
        os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]))
