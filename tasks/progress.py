"""Progress of a stage: rich bars in a terminal, plain lines elsewhere, and an artifact in the UI."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Literal
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from nncift_core.text import visible

Mode = Literal["auto", "plain", "quiet"]
PLAIN_SECONDS = 10.0
ARTIFACT_SECONDS = 2.0
# Columns of a bar's line in characters: what a name keeps on narrow terminals, the rate and the time left.
NAME, BAR, RATE, LEFT = 8, (4, 40), 8, 12


class Pace:
    """Items per second from the first items finished to the last ones.

    Items that were there at the start never count, nor does the time before the first are finished:
    that one loads models.
    """

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)

    def add(self, now: float, done: int) -> None:
        """`done` items are there at `now` (seconds of a monotonic clock); fewer than before: start again."""
        self._last, before = (now, done), self._last
        if self._first is None or done < before[1]:
            self._first = self._last

    @property
    def rate(self) -> float | None:
        """Items per second; None until items were finished at two moments."""
        if self._first is None or self._last[0] <= self._first[0] or self._last[1] <= self._first[1]:
            return None
        return (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])

    def left(self, now: float, total: int) -> float | None:
        """Seconds from `now` until `total` items are there at this rate, at least 0; None without a rate."""
        rate = self.rate
        return None if rate is None else max(0.0, (total - self._last[1]) / rate - (now - self._last[0]))


class Stage:
    """Counts finished items of one stage; `advance` may be called from any thread."""

    def __init__(
        self, name: str, total: int, done: int, unit: str, view: _View, artifact: UUID | None
    ) -> None:
        self.name, self.total, self.done, self.unit = name, total, done, unit
        self.pace = Pace()
        self._view, self._artifact = view, artifact
        self._lock, self._said, self._away = threading.Lock(), time.monotonic(), False

    def advance(self, items: int = 1) -> None:
        """`items` more are finished."""
        with self._lock:
            self.done += items
            self.pace.add(time.monotonic(), self.done)
            self._view.update(self)
            if self._artifact and time.monotonic() - self._said > ARTIFACT_SECONDS:
                self._said = time.monotonic()
                self._tell(self.percent)

    @property
    def percent(self) -> float:
        """0..100."""
        return 100.0 * min(1.0, self.done / self.total) if self.total else 100.0

    @property
    def rate(self) -> str:
        """The rate as text, "41/s" or "0.5/min"; empty while it is unknown."""
        return "" if self.pace.rate is None else _rate(self.pace.rate)

    @property
    def left(self) -> str:
        """The time left as text, "68 s left" or "12 min left"; empty while it is unknown."""
        seconds = self.pace.left(time.monotonic(), self.total)
        return "" if seconds is None else f"{_duration(seconds)} left"

    def close(self) -> None:
        """The stage is over: early stopping, say, may leave it short of its total."""
        if self._artifact:
            self._tell(100.0)

    def _tell(self, percent: float) -> None:
        """Tell the server; that it is away for a moment is no reason to fail a shard, and said once."""
        assert self._artifact is not None
        try:
            update_progress_artifact(self._artifact, progress=percent)
        except (httpx.HTTPError, PrefectException) as e:
            if not self._away:
                say(f"{self.name}: the server could not be told how far it is ({type(e).__name__})")
            self._away = True


def _rate(per_second: float) -> str:
    if per_second >= 10:
        return f"{per_second:,.0f}/s"
    return f"{per_second:.1f}/s" if per_second >= 0.1 else f"{60 * per_second:.1f}/min"


def _duration(seconds: float) -> str:
    if seconds < 180:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


class _View:
    def update(self, stage: Stage) -> None:
        """Show the stage's state."""


class _Bar(_View):
    """One line: name, bar, count with its unit, rate, time left; never wider than the terminal."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def begin(self, stage: Stage) -> None:
        """Show the line before anything is finished."""
        self.id = self.progress.add_task(stage.name, total=stage.total, completed=stage.done, stage=stage)

    def update(self, stage: Stage) -> None:
        self.progress.update(self.id, total=stage.total, completed=stage.done)


def _bars(console: Console, name: str, total: int, unit: str) -> Progress:
    """Columns that fit the console: the bar gives way first, then the name's end; numbers stay whole."""
    count, gaps = 2 * len(f"{total:,}") + 1 + len(unit) + 1, 4
    room = console.width - (len(name) + count + RATE + LEFT + gaps)
    bar = min(max(room, BAR[0]), BAR[1])
    shown = min(len(name), max(NAME, len(name) + min(0, room - bar)))

    def text(template: str, width: int | None = None) -> TextColumn:
        # Markup off: what stands in [brackets] is text here.
        column = Column(no_wrap=True, max_width=width)
        return TextColumn(template, markup=False, table_column=column)

    columns = (
        text("{task.description}", shown),
        BarColumn(bar_width=bar),
        text("{task.fields[stage].done:,}/{task.fields[stage].total:,} {task.fields[stage].unit}"),
        text("{task.fields[stage].rate}"),
        text("{task.fields[stage].left}"),
    )
    return Progress(*columns, console=console, transient=True)


class _Lines(_View):
    def __init__(self) -> None:
        self.said = time.monotonic()

    def update(self, stage: Stage) -> None:
        now = time.monotonic()
        if now - self.said < PLAIN_SECONDS:
            return
        self.said = now
        facts = ", ".join(f for f in (f"{stage.percent:.0f} %", stage.rate, stage.left) if f)
        say(f"{stage.name}: {stage.done:,} of {stage.total:,} {stage.unit} ({facts})")


class Reporter:
    """How this process shows progress; one per process."""

    def __init__(self) -> None:
        self.mode: Mode = "auto"

    @contextlib.contextmanager
    def stage(
        self, name: str, total: int, unit: str, *, done: int = 0, artifact: bool = True
    ) -> Iterator[Stage]:
        """Show a stage while it runs; `done` of `total` items are there already.

        Inside a flow run a progress artifact is kept too (`artifact`).
        """
        artifact_id = _artifact(name, total, unit, done) if artifact else None
        console = Console(stderr=True)
        # A terminal that cannot move its cursor back would show no bar at all.
        if self.mode != "auto" or not sys.stderr.isatty() or console.is_dumb_terminal:
            view = _View() if self.mode == "quiet" else _Lines()
            stage = Stage(name, total, done, unit, view, artifact_id)
            yield stage
        else:
            with _bars(console, name, total, unit) as bars:
                bar = _Bar(bars)
                stage = Stage(name, total, done, unit, bar, artifact_id)
                bar.begin(stage)
                yield stage
        stage.close()


def _artifact(name: str, total: int, unit: str, done: int) -> UUID | None:
    key = "-".join(re.findall("[a-z0-9]+", f"progress {name}".lower()))
    made = create_progress_artifact(
        100.0 * done / max(total, 1), key=key, description=f"{name}: {total:,} {unit}"
    )
    return made if isinstance(made, UUID) else None


reporter = Reporter()


def say(text: str) -> None:
    """One line to the person at the terminal (stderr: stdout is for results) and to the run's logs.

    What steers a terminal is shown as signs: names in `text` may come from data.
    """
    shown = visible(text)
    if FlowRunContext.get() is not None:
        get_run_logger().info(shown)
    if reporter.mode != "quiet":
        print(shown, file=sys.stderr, flush=True)
