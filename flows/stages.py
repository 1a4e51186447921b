"""Running the stages of one attempt: progress, cost, and the line that says how it went."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import Task
from prefect.runtime import deployment, flow_run

from nncift_core.errors import RunError
from nncift_core.execution.job import BaseJob
from nncift_core.execution.memory import peak_mb
from nncift_core.execution.pool import pool_of
from nncift_core.hashing import digest
from nncift_core.store.runs import Attempt, Cost, publish_table
from nncift_core.store.views import rows_table
from tasks import downstream
from tasks.caching import cached
from tasks.current import current
from tasks.progress import reporter, say
from tasks.running import Outcome, ShardsFailed, run_shards


@dataclass
class Done:
    """What the shards of a stage have done so far; without any, all that was missing counts."""

    computed: int | None = None
    peak_mb: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Some shards are over."""
        self.computed = (self.computed or 0) + outcome.computed
        self.peak_mb = max(self.peak_mb, outcome.peak_mb)

    def items(self, missing: int) -> int:
        """Items computed by this stage."""
        return missing if self.computed is None else self.computed


class Stages:
    """What every stage of an attempt shares: the job, where costs are recorded, how progress shows."""

    def __init__(self, job: BaseJob, attempt: Attempt) -> None:
        self.job: Any = job
        self.attempt = attempt
        self.config, self.ws, self.run_id = job.config, job.ws, attempt.run_id
        self.problem = job.problem()
        self.command = ""

    @contextmanager
    def stage(self, name: str, items: int, missing: int, unit: str) -> Iterator[Done]:
        """Progress of a stage while it runs, and its cost afterwards; `missing` of `items` are to be done.

        What shards say that they did counts, where there are some: another run may do some of them meanwhile.
        """
        start = time.monotonic()
        pool, done = pool_of(self.config), Done()

        def over() -> tuple[int, float]:
            computed, seconds = min(done.items(missing), items), time.monotonic() - start
            self.cost(name, pool.where, items, computed, seconds, done.peak_mb)
            return computed, seconds

        try:
            with self.shown(name, items, unit, done=items - missing):
                yield done
        except ShardsFailed as e:
            done.add(e.done)
            over()
            raise RunError(e.text(self.again)) from e
        except BaseException:
            done.computed = done.computed or 0
            over()
            raise
        computed, seconds = over()
        reused = f", {items - computed:,} reused" if items > computed else ""
        say(f"{name}: {computed:,} {unit} computed{reused} in {seconds:.1f} s")
        for slot in pool.retired:
            where = f"{slot.device} (slot {slot.number})"
            say(f"{name}: {where} is no longer used: shards failed on it one after another")

    def shards(
        self,
        name: str,
        task: Task[..., Any],
        shards: Sequence[Any],
        counts: tuple[int, int, str],
        given: dict[str, Any] | None = None,
    ) -> None:
        """A stage of the shards that planning found missing; counts: items in all, missing, their unit."""
        items, missing, unit = counts
        with self.stage(name, items, missing, unit) as done:
            done.add(run_shards(self.job, task, [asdict(s) for s in shards], given))

    @property
    def again(self) -> str:
        """The one command that goes on with this run."""
        if deployment.id:
            return f"prefect --no-prompt flow-run retry {flow_run.id}"
        return self.command or f"the same call again (workspace {Path(self.ws.address).name})"

    @contextmanager
    def shown(self, name: str, items: int, unit: str, done: int = 0) -> Iterator[None]:
        """Progress of what tasks do meanwhile."""
        with reporter.stage(name, items, unit, done=done) as shown:
            current.start(shown)
            try:
                yield
            except BaseException:
                # Ctrl-C, and SIGTERM, of which Prefect makes an exception of its own.
                current.stop()
                raise
            finally:
                current.stage = None

    def cost(
        self, name: str, device: str, items: int, computed: int, seconds: float, workers_mb: float = 0.0
    ) -> None:
        """Record what a stage did; workers_mb: peak memory of its worker processes, the largest one's."""
        peak = max(peak_mb(), workers_mb)
        self.attempt.cost(Cost(name, device, items, computed, items - computed, seconds, peak))

    def publish_rows(
        self,
        view: str,
        key: str,
        rows: list[dict[str, Any]] | pa.Table,
        *,
        producer: str,
        parents: tuple[str, ...],
    ) -> str:
        """Write the rows of a result view; returns the file's relative path."""
        table = rows if isinstance(rows, pa.Table) else rows_table(view, rows)
        return publish_table(self.ws, self.run_id, view, key, table, producer=producer, parents=parents)

    def report(self) -> str:
        """Write the run's page; returns its relative path."""
        start = time.monotonic()
        key = digest(["report", self.run_id, self.attempt.number])
        path, _ = cached(self.job, downstream.report, key, lambda v: False, self.run_id)
        self.cost("report", "cpu", 1, 1, time.monotonic() - start)
        return str(path)
