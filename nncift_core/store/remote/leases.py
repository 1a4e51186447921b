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

from nncift_core.errors import UserError
from nncift_core.store.remote.objects import Objects

_LOG = logging.getLogger("nncift.store")
# Seconds that a lease counts after its last renewal, and between two renewals.
LASTS, EVERY = 60.0, 15.0
# Seconds between two tries for a lease that another one holds.
_TURN = 1.0
_FOLDER = "leases"


class Leases:
    """The leases of one store; those that are held are renewed by a thread."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self._held: dict[str, str] = {}
        self._renewed_at: dict[str, float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def told(self, name: str) -> Iterator[None]:
        """Hold the lease `name`, which nobody else ever asks for: it says that its holder lives."""
        key, token = f"{_FOLDER}/{name}", uuid.uuid4().hex
        self.objects.put(key, _text(token))
        try:
            with self._kept(name, token):
                yield
        finally:
            with contextlib.suppress(UserError):
                # It ends by itself where the store is away.
                self.objects.delete([key])

    @contextlib.contextmanager
    def held(self, name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the lease `name`; waits while another one does. waiting: called meanwhile; what it raises ends
        the wait."""
        token = uuid.uuid4().hex
        while not self._taken(name, token):
            if waiting is not None:
                waiting()
            time.sleep(_TURN)
        try:
            with self._kept(name, token):
                yield
        finally:
            self._free(name, token)

    @contextlib.contextmanager
    def _kept(self, name: str, token: str) -> Iterator[None]:
        """Have a lease renewed meanwhile."""
        with self._lock:
            self._held[name] = token
            self._renewed_at[name] = time.time()
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
        return self._living(self.objects.get(f"{_FOLDER}/{name}"))

    def is_sure(self, name: str) -> bool:
        """Whether `name` is held here and was renewed so lately that nobody else can have taken it."""
        return name in self._held and time.time() - self._renewed_at[name] < LASTS

    def all_held(self, prefix: str) -> list[str]:
        """Names of the leases below `prefix` that somebody holds."""
        names = [f"{prefix}/{n}" for n in self.objects.names(f"{_FOLDER}/{prefix}")]
        told = self.objects.each(names, self.is_held)
        return [n for n, held in zip(names, told, strict=True) if held]

    def _taken(self, name: str, token: str) -> bool:
        key = f"{_FOLDER}/{name}"
        if self.objects.create(key, _text(token)):
            return True
        found = self.objects.get(key)
        if self._living(found):
            return False
        # Its holder is gone: whoever writes last has it.
        begun = time.monotonic()
        self.objects.put(key, _text(token))
        time.sleep(0.2 + 2 * (time.monotonic() - begun))
        now = self.objects.get(key)
        return now is not None and json.loads(now)["token"] == token

    def _free(self, name: str, token: str) -> None:
        key = f"{_FOLDER}/{name}"
        with contextlib.suppress(UserError):
            # It ends by itself where the store is away.
            found = self.objects.get(key)
            if found is not None and json.loads(found)["token"] == token:
                self.objects.delete([key])

    @staticmethod
    def _living(data: bytes | None) -> bool:
        return data is not None and float(json.loads(data)["until"]) > time.time()

    def _renew(self) -> None:
        while True:
            time.sleep(EVERY)
            with self._lock:
                held = dict(self._held)
            self.objects.each(held.items(), lambda lease: self._renewed(*lease))

    def _renewed(self, name: str, token: str) -> None:
        # One that could not be renewed ends; whoever computes the same then harms nothing.
        begun = time.time()
        try:
            self.objects.put(f"{_FOLDER}/{name}", _text(token))
        except Exception as e:
            # Whatever it is, the other leases and the next try must not end with it.
            _LOG.warning("the lease %s could not be renewed: %s", name, e)
            return
        self._renewed_at[name] = begun
        if self._held.get(name) != token:
            # Freed meanwhile.
            self._free(name, token)


def _text(token: str) -> bytes:
    return json.dumps({"token": token, "until": time.time() + LASTS}).encode()
