"""Leases: objects that say until when somebody is at work. Best effort: two holders harm nothing but time.

A lease is created only where none is (a conditional write), renewed while it is held, and counts as free once
its time is over: what holds it was killed or cut off. The machines' clocks are taken to agree within seconds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nncift_core.errors import UserError
from nncift_core.store.remote.objects import Objects

_LOG = logging.getLogger("nncift.store")
# Seconds that a lease counts after its last renewal, and between two renewals.
LASTS, EVERY = 60.0, 15.0
# Renewals of one lease that may be on their way at once: one that hangs must not keep the next ones back.
_AT_ONCE = 3
# Seconds after which a lease that nobody renewed is cleared away by whoever comes across it.
_OLD = 3600.0
# Seconds between two tries for a lease that another one holds.
_TURN = 1.0
_FOLDER = "leases"


@dataclass
class _Held:
    """A lease that is held here. at: when it was last written; broken: it ended at some time since it was
    taken; going: renewals that are on their way."""

    token: str
    at: float
    broken: bool = False
    going: int = 0


class Leases:
    """The leases of one store; those that are held are renewed by threads, each by its own."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def told(self, name: str) -> Iterator[None]:
        """Hold the lease `name`, which nobody else ever asks for: it says that its holder lives."""
        token = uuid.uuid4().hex
        at = self._written(name, token)
        try:
            with self._kept(name, _Held(token, at)):
                yield
        finally:
            with contextlib.suppress(UserError):
                # It ends by itself where the store is away.
                self.objects.delete([f"{_FOLDER}/{name}"])

    @contextlib.contextmanager
    def held(self, name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the lease `name`; waits while another one does. waiting: called meanwhile; what it raises ends
        the wait."""
        token = uuid.uuid4().hex
        while (at := self._taken(name, token)) is None:
            if waiting is not None:
                waiting()
            time.sleep(_TURN)
        try:
            with self._kept(name, _Held(token, at)):
                yield
        finally:
            self._free(name, token)

    @contextlib.contextmanager
    def _kept(self, name: str, lease: _Held) -> Iterator[None]:
        """Have a lease renewed meanwhile."""
        with self._lock:
            self._held[name] = lease
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew, name="leases", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(name, None)

    def is_held(self, name: str) -> bool:
        """Whether somebody holds `name`."""
        return _until(self.objects.get(f"{_FOLDER}/{name}")) > time.time()

    def is_sure(self, name: str) -> bool:
        """Whether `name` is held here without a gap since it was taken: nobody else can have had it."""
        lease = self._held.get(name)
        return lease is not None and not lease.broken and time.time() - lease.at < LASTS

    def all_held(self, prefix: str, but: str = "") -> list[str]:
        """Names of the leases below `prefix` that somebody holds; but: those that begin so are not asked.

        Clears away what killed holders left long ago.
        """
        found = [n for n in self.objects.names(f"{_FOLDER}/{prefix}") if not (but and n.startswith(but))]
        names, now = [f"{prefix}/{n}" for n in found], time.time()
        until = self.objects.each(names, lambda n: _until(self.objects.get(f"{_FOLDER}/{n}")))
        told = list(zip(names, until, strict=True))
        self.objects.delete(f"{_FOLDER}/{n}" for n, end in told if 0 < end < now - _OLD)
        return [n for n, end in told if end > now]

    def _taken(self, name: str, token: str) -> float | None:
        """When `name` was taken; None where another one has it."""
        key, text = f"{_FOLDER}/{name}", _Text(token)
        if self.objects.create(key, text):
            return text.at
        if _until(self.objects.get(key)) > time.time():
            return None
        # Its holder is gone: whoever writes last has it.
        begun = time.time()
        at = self._written(name, token)
        time.sleep(0.2 + 2 * (time.time() - begun))
        return at if _token(self.objects.get(key)) == token else None

    def _written(self, name: str, token: str) -> float:
        """Write a lease; returns from when it counts."""
        text = _Text(token)
        self.objects.put(f"{_FOLDER}/{name}", text)
        return text.at

    def _free(self, name: str, token: str) -> None:
        key = f"{_FOLDER}/{name}"
        with contextlib.suppress(UserError):
            # It ends by itself where the store is away.
            if _token(self.objects.get(key)) == token:
                self.objects.delete([key])

    def _renew(self) -> None:
        while True:
            time.sleep(EVERY)
            with self._lock:
                due = [(name, lease) for name, lease in self._held.items() if lease.going < _AT_ONCE]
                for _, lease in due:
                    lease.going += 1
            for name, lease in due:
                threading.Thread(
                    target=self._renewed, args=(name, lease), name=f"lease {name}", daemon=True
                ).start()

    def _renewed(self, name: str, lease: _Held) -> None:
        try:
            found = self.objects.get(f"{_FOLDER}/{name}")
            if found is not None and _token(found) != lease.token:
                # Somebody else took it once it had ended: it is theirs.
                lease.broken = True
                return
            at = self._written(name, lease.token)
        except Exception as e:
            # Whatever it is, the next try must come. One that is not renewed ends: who then computes the same
            # harms nothing.
            _LOG.warning("the lease %s could not be renewed: %s", name, e)
            return
        finally:
            lease.going -= 1
        lease.broken = lease.broken or at - lease.at >= LASTS
        lease.at = max(lease.at, at)
        if self._held.get(name) is not lease:
            # Freed meanwhile.
            self._free(name, lease.token)


class _Text:
    """What a lease says as of the moment it is written: a store that was away must not get an old one."""

    def __init__(self, token: str) -> None:
        self.token, self.at = token, time.time()

    def __call__(self) -> bytes:
        self.at = time.time()
        return json.dumps({"token": self.token, "until": self.at + LASTS}).encode()


def _until(data: bytes | None) -> float:
    return 0.0 if data is None else float(json.loads(data)["until"])


def _token(data: bytes | None) -> str | None:
    return None if data is None else str(json.loads(data)["token"])
