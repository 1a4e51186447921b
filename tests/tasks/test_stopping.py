"""Ctrl-C ends work in flight at its next progress, and what was stopped is not tried again."""

from __future__ import annotations

from typing import Any

import pytest

from nncift_core.execution.failures import Stopped
from tasks.caching import worth_retrying
from tasks.current import Current


class Counted:
    total, done = 10, 0

    def advance(self, items: int) -> None:
        self.done += items


class Failed:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def result(self) -> None:
        raise self.error


def test_progress_after_a_stop_ends_the_work() -> None:
    current, stage = Current(), Counted()
    current.start(stage)
    current.advance(3)
    current.stop()
    for step in (lambda: current.advance(1), lambda: current.to(4, 10)):
        with pytest.raises(Stopped):
            step()
    assert stage.done == 3
    current.start(stage)
    current.advance(1)
    assert stage.done == 4


def test_a_stop_is_not_tried_again() -> None:
    unused: Any = None
    interrupted: Any = Failed(Stopped())
    broken: Any = Failed(RuntimeError("a worker died"))
    assert not worth_retrying(unused, unused, interrupted)
    assert worth_retrying(unused, unused, broken)
