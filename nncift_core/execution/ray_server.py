"""What runs on a Ray cluster's machines: an actor for each slot, which keeps its models between shards.

Everything that passes is short JSON text: a job, a shard's place, counts. Values go to the workspace.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import Any

from nncift_core import __version__
from nncift_core.execution.failures import packed
from nncift_core.store.workspace import Workspace


class Heard:
    """Progress that is kept until somebody asks; `signs` counts every word, as a sign of life."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items, self._signs = 0, 0
        self._at: tuple[int, int] | None = None

    def advance(self, items: int) -> None:
        """`items` more are done."""
        with self._lock:
            self._items += items
            self._signs += 1

    def to(self, done: int, total: int) -> None:
        """`done` of `total` are done."""
        with self._lock:
            self._at = (done, total)
            self._signs += 1

    def flush(self) -> None:
        """Nothing waits here."""

    def take(self) -> dict[str, Any]:
        """What has come since the last call."""
        with self._lock:
            found = {"advance": self._items, "to": self._at, "signs": self._signs}
            self._items, self._at = 0, None
            return found


class Server:
    """Serves the shards of one slot; made by Ray, on whichever machine has room."""

    def __init__(self, number: int) -> None:
        self.number, self.heard = number, Heard()

    def about(self, workspace: str, mark: str) -> str:
        """Where this is, its version, and whether it sees the workspace that has `mark` (or an error)."""
        told = {"host": socket.gethostname(), "pid": os.getpid(), "version": __version__}
        try:
            return json.dumps({**told, "sees": Workspace(workspace).has_mark(mark)})
        except Exception as e:
            return json.dumps({**told, "error": packed(e)})

    def serve(self, message: str) -> str:
        """Compute a shard, as a local worker process does."""
        from nncift_core.execution.worker import answer

        try:
            mine = devices()
            found = answer(json.loads(message), self.number, mine, self.heard)
            where = f"{socket.gethostname()}/{mine[0]}"
            return json.dumps({"done": {**found, "device": where}})
        except Exception as e:
            return json.dumps({"error": packed(e)})

    def told(self) -> str:
        """How far the shard is: what came since the last call."""
        return json.dumps(self.heard.take())


def devices() -> tuple[str, ...]:
    """The devices of this actor: the GPUs that Ray gave it, the only ones it sees, else the CPU.

    As many times the CPU as there are GPUs in Ray's books alone.
    """
    import ray
    import torch

    given = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    if not given or not torch.cuda.is_available():
        return ("cpu",) * max(1, len(given))
    return tuple(f"cuda:{k}" for k in range(len(given)))
