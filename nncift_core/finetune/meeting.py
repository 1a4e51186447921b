"""Where the hosts of a training meet, who has come, and who has gone.

The job's process holds the store through which torch's launchers find each other (`finetune.rendezvous`). In
it every guest, that is another host, keeps a count of its own that grows while it lives. So either side
notices the end of the other within a minute even if a machine lost its power, and who gives up says why.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

from nncift_core.errors import RunError, UserError
from nncift_core.finetune.invitation import Invitation

# Seconds: between two signs of life, until a silent host counts as lost, for an answer of the store.
_BEAT_S, _SILENT_S, _ANSWER_S = 2.0, 60.0, 20.0
# Seconds: to find out on whose side a training broke, and for guests to end theirs.
_SHOWS_S, _FAREWELL_S = 3 * _BEAT_S, 10.0
# Seconds for a word with a store whose machine may be frozen: its client would wait for a quarter of an hour.
_WORD_S = 10.0

T = TypeVar("T")


class Broken(RunError):
    """A process of a training died, and this host does not know why."""


def reason(error: BaseException) -> str:
    """What the other hosts are told of the error that ended a host's part; "" if that is not the cause."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return "" if isinstance(error, Broken) else str(error) or repr(error)


class Meeting:
    """The job's side: the store, held until the training is over.

    Raises UserError where `finetune.rendezvous` is no free address of this machine.
    """

    def __init__(self, asked: Invitation) -> None:
        self.asked = asked
        self.timeout = int(asked.finetune.get("join_timeout_s", 600))
        self._begun = time.monotonic()
        self._heard: dict[int, tuple[int, float]] = {}
        self._broke_at: dict[int, float] = {}

    def __enter__(self) -> Meeting:
        self._store = _opened(self.asked)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                self._store.set("over", reason(error))
            end = time.monotonic() + (_FAREWELL_S if error is None else 2 * _BEAT_S)
            while time.monotonic() < end and any(self._left(n) is None for n in self._guests()):
                time.sleep(0.1)
        finally:
            # With it the port is free, and guests that train on see that nobody waits for them.
            del self._store

    @property
    def complete(self) -> bool:
        """Whether all hosts have come."""
        return len(self._guests()) == self.asked.hosts - 1

    def watch(self) -> None:
        """Raise RunError when too few hosts came in time, or one of them has left or is not heard of."""
        if not self.complete and time.monotonic() - self._begun > self.timeout:
            raise RunError(self._missing())
        for n in self._guests():
            beat, now = self._store.add(f"beat/{n}", 0), time.monotonic()
            if (left := self._left(n)) is not None:
                # What ended it may end this host's part a moment later, which says it better.
                if left and now - self._broke_at.setdefault(n, now) > _SHOWS_S:
                    raise RunError(f"the host {self._name(n)} ended its part: {left}")
                continue
            # It may have broken by a process of this host, which shows soon.
            broke = self._broke_at.setdefault(n, now) if self._store.check([f"broke/{n}"]) else now
            if now - broke > _SHOWS_S:
                raise RunError(f"a process on the host {self._name(n)} broke")
            if n not in self._heard or self._heard[n][0] != beat:
                self._heard[n] = (beat, now)
            elif now - self._heard[n][1] > _SILENT_S:
                raise RunError(f"the host {self._name(n)} has not been heard of for {_SILENT_S:.0f} s")

    def blame(self) -> str | None:
        """Why the training broke, if within seconds it shows that another host was the cause."""
        guests, end = self._guests(), time.monotonic() + _SHOWS_S
        before = {n: self._store.add(f"beat/{n}", 0) for n in guests}
        while guests and time.monotonic() < end:
            for n in guests:
                if left := self._left(n):
                    return f"the host {self._name(n)} ended its part: {left}"
            time.sleep(0.2)
        gone = [n for n in guests if self._left(n) is None and self._store.add(f"beat/{n}", 0) == before[n]]
        names = ", ".join(self._name(n) for n in gone)
        return f"the training lost a host: {names} does not answer any more" if gone else None

    def _guests(self) -> range:
        return range(1, 1 + min(self._store.add("came", 0), self.asked.hosts - 1))

    def _left(self, n: int) -> str | None:
        """Why a guest has left, "" if its part was over; None if it is there."""
        return _told(self._store, f"left/{n}")

    def _name(self, n: int) -> str:
        return _told(self._store, f"name/{n}") or f"number {n + 1}"

    def _missing(self) -> str:
        host, port = self.asked.rendezvous
        came = 1 + len(self._guests())
        text = (
            f"{came} of {self.asked.hosts} hosts came to {host}:{port} within {self.timeout} s "
            "(finetune.join_timeout_s): start `nncift join` on the others"
        )
        refused = [_told(self._store, f"refused/{n}") for n in range(1, 1 + self._store.add("refused", 0))]
        return "; ".join([text, *dict.fromkeys(r for r in refused if r)])


class Guest:
    """Another host's side: its link to the job's host, until it leaves."""

    def __init__(self, store: Any, hosts: int) -> None:
        self._store, self._hosts = store, hosts
        self._number = 0
        self._over = threading.Event()
        self._heard = time.monotonic()
        self._lost: str | None = None

    def refuse(self, why: str) -> None:
        """Say that this host takes no part; in vain where the meeting is over."""
        with contextlib.suppress(RuntimeError):
            _within(lambda: self._store.set(f"refused/{self._store.add('refused', 1)}", why))

    def come(self) -> int | None:
        """Take part; returns this host's number from 2 on, the job's being 1, None where all have come.

        Raises RunError where the meeting is over.
        """
        try:
            number = int(_within(lambda: self._store.add("came", 1)))
            if number > self._hosts - 1:
                return None
            _within(lambda: self._store.set(f"name/{number}", socket.gethostname()))
        except RuntimeError:
            raise RunError("it was over before this host came") from None
        self._number, self._heard = number, time.monotonic()
        threading.Thread(target=self._beat, daemon=True).start()
        return number + 1

    def leave(self, why: str = "") -> None:
        """Say that this host's part is over, and why, if it ended early and this host is the cause."""
        self._over.set()
        self._tell(f"left/{self._number}", why)

    def blame(self) -> str | None:
        """Why the training broke, a process of this host having died, if the job's host soon tells."""
        self._tell(f"broke/{self._number}", "")
        # That host asks all others first.
        end = time.monotonic() + 2 * _SHOWS_S
        while self._lost is None and time.monotonic() < end:
            time.sleep(0.1)
        return self._lost or None

    def watch(self) -> None:
        """Raise RunError once the job's host has ended the training, or is not heard of."""
        if self._lost is not None:
            raise RunError(self._lost or "the job's host has ended the training")
        if time.monotonic() - self._heard > _SILENT_S:
            raise RunError(f"the job's host has not been heard of for {_SILENT_S:.0f} s")

    def _tell(self, key: str, text: str) -> None:
        with contextlib.suppress(RuntimeError):
            # A job's host that has closed the meeting, or hears nobody, needs no farewell.
            _within(lambda: self._store.set(key, text))

    def _beat(self) -> None:
        while self._lost is None and not self._over.wait(_BEAT_S):
            try:
                self._store.add(f"beat/{self._number}", 1)
                why = _told(self._store, "over")
            except RuntimeError:
                why = "it does not answer any more"
            self._heard = time.monotonic()
            if why is not None:
                # "": it knows no more than that a process died.
                self._lost = why and f"the job's host has ended the training: {why}"


def find_meeting(asked: Invitation) -> Guest | None:
    """The link to the host that holds the meeting of `asked`; None where nobody holds it, or not yet."""
    host, port = asked.rendezvous
    try:
        # The store's own client tries for long, and writes lines about it.
        with socket.create_connection((host, port), timeout=_BEAT_S):
            pass
        store, found = _within(lambda: _greeted(host, port))
    except (OSError, RuntimeError):
        return None
    return Guest(store, asked.hosts) if found == asked.attempt else None


def _greeted(host: str, port: int) -> tuple[Any, str | None]:
    """The store at an address, and which training's it is."""
    store = _store(host, port)
    return store, _told(store, "training")


class _NoWord(RuntimeError):
    """The store does not answer."""


def _within(do: Callable[[], T]) -> T:
    """What `do` gives. Raises RuntimeError where that takes too long: `do` is then left to itself, because
    nothing ends torch's client while it waits."""
    found: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            found.append(do())
        except Exception as e:
            failed.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_WORD_S)
    if failed:
        raise failed[0]
    if not found:
        raise _NoWord
    return found[0]


def _opened(asked: Invitation) -> Any:
    import torch.distributed as dist

    host, port = asked.rendezvous
    why = f"port {port} of this machine is taken"
    try:
        # It listens on all addresses; the guests' way to it is tried after.
        store = _store("127.0.0.1", port, holds=True)
    except dist.DistError as e:
        if "EADDRINUSE" not in str(e):
            raise
    else:
        store.set("training", asked.attempt)
        if find_meeting(asked) is not None:
            return store
        why = f"{host} is no address of this machine"
    raise UserError(
        f"the hosts of a training cannot meet at {host}:{port}: {why}",
        field="finetune.rendezvous",
        mend="Give a free port of an address of the machine that runs the job.",
    )


def _store(host: str, port: int, *, holds: bool = False) -> Any:
    import torch.distributed as dist

    answer = timedelta(seconds=_ANSWER_S)
    return dist.TCPStore(  # type: ignore[attr-defined]
        host, port, is_master=holds, wait_for_workers=False, timeout=answer
    )


def _told(store: Any, key: str) -> str | None:
    """A text of the store; None where there is none."""
    if not store.check([key]):
        return None
    found: bytes = store.get(key)
    return found.decode("utf-8")
