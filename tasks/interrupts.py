"""Ctrl-C that does not get lost between the key and the end of the run.

Python raises KeyboardInterrupt where the main thread stands, and not everything there lets it through: DuckDB
may make a RuntimeError of it (a failure like others, which a task would try again), and in a callback of a
dying object it is printed and dropped. So the signal is remembered too, and tasks ask.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Whether Ctrl-C was pressed while `watched`."""

    def __init__(self) -> None:
        self.seen = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Remember SIGINT, which still raises KeyboardInterrupt; an error after it counts as one.

        Outside the main thread, and where SIGINT is ignored, nothing changes.
        """
        before = signal.getsignal(signal.SIGINT)
        ours = threading.current_thread() is threading.main_thread() and callable(before)
        if ours:
            signal.signal(signal.SIGINT, self._note)
        try:
            yield
        except Exception as e:
            if self.seen:
                raise KeyboardInterrupt from e
            raise
        finally:
            self.seen = False
            if ours:
                signal.signal(signal.SIGINT, before)

    def check(self) -> None:
        """Raise the KeyboardInterrupt that something has swallowed."""
        if self.seen:
            raise KeyboardInterrupt

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.seen = True
        raise KeyboardInterrupt


interrupts = Interrupts()
