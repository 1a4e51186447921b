"""Progress of a stage: rich bars in a terminal, plain lines elsewhere, and an artifact in the UI."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Literal
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Mode = Literal["auto", "plain", "quiet"]
PLAIN_SECONDS = 10.0
ARTIFACT_SECONDS = 2.0


class Stage:
    """Counts finished items of one stage; `advance` may be called from any thread."""

    def __init__(
        self, name: str, total: int, done: int, unit: str, view: _View, artifact: UUID | None
    ) -> None:
        self.name, self.total, self.done, self.unit = name, total, done, unit
        self._view, self._artifact = view, artifact
        self._lock, self._said = threading.Lock(), time.monotonic()

    def advance(self, items: int = 1) -> None:
        """`items` more are finished."""
        with self._lock:
            self.done += items
            self._view.update(self)
            if self._artifact and time.monotonic() - self._said > ARTIFACT_SECONDS:
                self._said = time.monotonic()
                update_progress_artifact(self._artifact, progress=self.percent)

    @property
    def percent(self) -> float:
        """0..100."""
        return 100.0 * min(1.0, self.done / self.total) if self.total else 100.0

    def close(self) -> None:
        """The stage is over: early stopping, say, may leave it short of its total."""
        if self._artifact:
            update_progress_artifact(self._artifact, progress=100.0)


class _View:
    def update(self, stage: Stage) -> None:
        """Show the stage's state."""


class _Bar(_View):
    def __init__(self, progress: Progress, name: str, stage_total: int, done: int) -> None:
        self.progress = progress
        self.id = progress.add_task(name, total=stage_total, completed=done)

    def update(self, stage: Stage) -> None:
        self.progress.update(self.id, completed=stage.done)


class _Lines(_View):
    def __init__(self) -> None:
        self.said = time.monotonic()
        self.start: tuple[float, int] | None = None

    def update(self, stage: Stage) -> None:
        now = time.monotonic()
        self.start = self.start or (now, stage.done)
        if now - self.said < PLAIN_SECONDS:
            return
        self.said = now
        rate = (stage.done - self.start[1]) / max(now - self.start[0], 1e-9)
        left = f", {(stage.total - stage.done) / rate:.0f} s left" if rate > 0 else ""
        say(f"{stage.name}: {stage.done:,} of {stage.total:,} {stage.unit} ({stage.percent:.0f} %{left})")


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
        key = f"progress-{name}"
        made = (
            create_progress_artifact(
                100.0 * done / max(total, 1), key=key, description=f"{name}: {total:,} {unit}"
            )
            if artifact
            else None
        )
        artifact_id = made if isinstance(made, UUID) else None
        tty = self.mode == "auto" and sys.stderr.isatty()
        if not tty:
            view = _Lines() if self.mode != "quiet" else _View()
            stage = Stage(name, total, done, unit, view, artifact_id)
            yield stage
            stage.close()
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            stage = Stage(name, total, done, unit, _Bar(bars, name, total, done), artifact_id)
            yield stage
        stage.close()


reporter = Reporter()


def say(text: str) -> None:
    """One line to the person at the terminal (stderr: stdout is for results) and to the run's logs."""
    if FlowRunContext.get() is not None:
        get_run_logger().info(text)
    if reporter.mode != "quiet":
        print(text, file=sys.stderr, flush=True)
