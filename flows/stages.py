"""Running the stages of one attempt: progress, cost, and the line that says how it went."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nncift_core.hashing import digest
from nncift_core.store.runs import Attempt, Cost, publish_table
from nncift_core.store.views import rows_table
from tasks import downstream
from tasks.job import Job, slots
from tasks.progress import reporter, say
from tasks.running import cached
from tasks.stages import current


def peak_mb() -> float:
    """Peak memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024.0 if sys.platform != "darwin" else 1024.0**2), 1)


class Stages:
    """What every stage of an attempt shares: the job, where costs are recorded, how progress shows."""

    def __init__(self, job: Job, attempt: Attempt) -> None:
        self.job, self.attempt = job, attempt
        self.config, self.ws, self.run_id = job.config, job.ws, attempt.run_id
        self.problem = job.problem()

    @contextmanager
    def stage(self, name: str, items: int, missing: int, unit: str) -> Iterator[None]:
        """Progress of a stage while it runs, and its cost afterwards; `missing` of `items` are to be done."""
        start = time.monotonic()
        devices = ",".join(slots(self.config).devices)
        with self.shown(name, items, unit, done=items - missing):
            yield
        seconds = time.monotonic() - start
        self.cost(name, devices, items, missing, seconds)
        reused = f", {items - missing:,} reused" if items > missing else ""
        say(f"{name}: {missing:,} {unit} computed{reused} in {seconds:.1f} s")

    @contextmanager
    def shown(self, name: str, items: int, unit: str, done: int = 0) -> Iterator[None]:
        """Progress of what tasks do meanwhile."""
        with reporter.stage(name, items, unit, done=done) as shown:
            current.start(shown)
            try:
                yield
            except KeyboardInterrupt:
                current.stop()
                raise
            finally:
                current.stage = None

    def cost(self, name: str, device: str, items: int, computed: int, seconds: float) -> None:
        """Record what a stage did."""
        self.attempt.cost(Cost(name, device, items, computed, items - computed, seconds, peak_mb()))

    def publish_rows(
        self, view: str, key: str, rows: list[dict[str, Any]], *, producer: str, parents: tuple[str, ...]
    ) -> str:
        """Write the rows of a result view; returns the file's relative path."""
        table = rows_table(view, rows)
        return publish_table(self.ws, self.run_id, view, key, table, producer=producer, parents=parents)

    def report(self) -> str:
        """Write the run's page; returns its relative path."""
        start = time.monotonic()
        key = digest(["report", self.run_id, self.attempt.number])
        path, _ = cached(self.job, downstream.report, key, lambda v: False, self.run_id)
        self.cost("report", "cpu", 1, 1, time.monotonic() - start)
        return str(path)
