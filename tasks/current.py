"""The stage whose progress the tasks of this process advance (stages follow one another)."""

from __future__ import annotations

from typing import Any

from nncift_core.execution.failures import Stopped
from tasks.interrupts import interrupts


class Current:
    """Passes progress on to the stage that runs, and ends work in flight once the run was stopped."""

    def __init__(self) -> None:
        self.stage: Any = None
        self.stopped = False

    def start(self, stage: Any) -> None:
        """`stage` runs from now on."""
        self.stage, self.stopped = stage, False

    def stop(self) -> None:
        """Let the tasks that still run end at their next progress, instead of at the end of their work."""
        self.stopped = True

    def advance(self, items: int) -> None:
        """`items` more are done; raises Stopped after `stop` or Ctrl-C."""
        self._go_on()
        if self.stage is not None and items:
            self.stage.advance(items)

    def to(self, done: int, total: int) -> None:
        """`done` of `total` items are done; raises Stopped after `stop` or Ctrl-C."""
        self._go_on()
        if self.stage is not None:
            self.stage.total = total
            self.stage.advance(done - self.stage.done)

    def _go_on(self) -> None:
        if self.stopped or interrupts.seen:
            raise Stopped


current = Current()
