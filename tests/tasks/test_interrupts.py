"""Ctrl-C reaches the end of a run even where a library has made something else of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from nncift_core.execution.failures import Stopped
from tasks.caching import worth_retrying
from tasks.current import Current
from tasks.interrupts import Interrupts, interrupts


def press() -> None:
    """Ctrl-C, for this process."""
    os.kill(os.getpid(), signal.SIGINT)


class Broken:
    # As DuckDB says it.
    def result(self) -> None:
        raise RuntimeError("Query interrupted")


def test_it_raises_as_ever_and_leaves_the_handler_as_it_was() -> None:
    made, before = Interrupts(), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), made.watched():
        press()
        time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is before
    made.check()


def test_one_that_was_swallowed_is_raised_at_the_next_check() -> None:
    made = Interrupts()
    with pytest.raises(KeyboardInterrupt), made.watched():
        with suppress(KeyboardInterrupt):
            press()
            time.sleep(5)
        made.check()
        pytest.fail("not raised again")


def test_an_error_made_of_it_is_not_tried_again_and_ends_as_ctrl_c() -> None:
    broken: Any = Broken()
    unused: Any = None
    with pytest.raises(KeyboardInterrupt), interrupts.watched():
        assert worth_retrying(unused, unused, broken)
        try:
            press()
            time.sleep(5)
        except KeyboardInterrupt:
            assert not worth_retrying(unused, unused, broken)
            broken.result()
    assert worth_retrying(unused, unused, broken)


def test_work_in_flight_ends_though_nobody_was_told() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts.watched():
        with suppress(KeyboardInterrupt):
            press()
            time.sleep(5)
        with pytest.raises(Stopped):
            Current().advance(1)
        interrupts.check()
    Current().advance(1)


def test_an_error_without_ctrl_c_stays_that_error() -> None:
    with pytest.raises(RuntimeError, match="device lost"), Interrupts().watched():
        raise RuntimeError("device lost")


def test_outside_the_main_thread_nothing_changes() -> None:
    seen: list[Any] = []

    def work() -> None:
        with Interrupts().watched():
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
