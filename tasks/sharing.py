"""How runs that share a workspace divide its shards: in orders of their own, what others compute last."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from nncift_core.execution.job import BaseJob
from nncift_core.store.alive import others_alive
from nncift_core.store.files import made_in
from tasks.current import current
from tasks.progress import say

# Turns of shards; two shards may share one and then wait for each other.
_TURNS = 1024
# Seconds that the answer counts whether there are other runs: in an object store it costs requests.
_COUNTS = 15.0
# Attempts that have been told of another run beside them.
_TOLD: set[str] = set()


class Taken(Exception):
    """Another run computes the shard."""


def alone(job: BaseJob, shard: str, wait: bool = True) -> AbstractContextManager[None]:
    """The turn of a shard, so that two runs do not compute it both. Whoever has waited for it looks again at
    what is stored before computing. shard: its key. Raises Taken where another has it and `wait` is false."""

    def waiting() -> None:
        current.advance(0)
        if not wait:
            raise Taken

    return job.ws.turn(_turn(shard), waiting)


class Others:
    """The other runs that go on in a job's workspace, as the submission of one stage's shards sees them."""

    def __init__(self, job: BaseJob) -> None:
        self._ws, self._own = job.ws, made_in(job.ws.root)
        self._until, self._some = 0.0, False

    def some(self) -> bool:
        """Whether there are any; the first time, the run is told."""
        if time.monotonic() >= self._until:
            self._some = bool(others_alive(self._ws, self._own))
            self._until = time.monotonic() + _COUNTS
        if self._some and self._own not in _TOLD:
            _TOLD.add(self._own)
            say("another run is going on in this workspace: what it computes is not computed twice")
        return self._some

    def ordered(self, shards: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As planned; beside another run in an order of one's own, so that they meet late."""
        if len(shards) < 2 or not self.some():
            return shards
        mixed = list(shards)
        random.Random(self._own).shuffle(mixed)
        return mixed

    def first_free(self, shards: Sequence[str]) -> int:
        """Index of the first of the keys `shards` that no other run computes now; 0 where each is taken."""
        if len(shards) < 2 or not self.some():
            return 0
        return next((n for n, key in enumerate(shards) if not self._ws.is_taken(_turn(key))), 0)


def _turn(shard: str) -> str:
    return f"shard-{int(shard[:8], 16) % _TURNS:04d}"
