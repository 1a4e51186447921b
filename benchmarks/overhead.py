"""What orchestration costs: per task run, per shard, per worker process, per flow.

A real local server on a database of its own, a small real model, worker processes as in any run. The last
table says how many seconds of work a shard, and a flow, need for orchestration to stay below 2 % of them.

Run: python benchmarks/overhead.py [--task-runs 100] [--repeats 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alone import settle
from machine import machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
SHARE = 0.02
GROUP = 20


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def task_runs(job: Any, count: int, repeats: int) -> tuple[float, float]:
    """Seconds per task run of one shard that computes nothing, and per further shard in its group."""
    from prefect import flow
    from prefect.task_runners import ThreadPoolTaskRunner

    from nncift_core.store.files import write_for
    from tasks.running import run_shards
    from tasks.shards import shard_task

    nothing = shard_task("exact-influence", lambda *_: {"computed": 0, "device": "cpu"})
    rounds = iter(range(1000))

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))  # type: ignore[arg-type]
    def measured(shards: int) -> float:
        number = next(rounds)
        write_for(job.ws.root, f"overhead/{number}")
        given = [{"name": f"{number}-{n}", "rows": [n]} for n in range(shards)]
        return seconds(lambda: run_shards(job, nothing, given))

    measured(2)
    single = statistics.median(measured(count) for _ in range(repeats)) / count
    grouped = statistics.median(measured(GROUP * count) for _ in range(repeats)) / count
    return single, (grouped - single) / (GROUP - 1)


class Silent:
    """Progress that nobody looks at."""

    def advance(self, items: int) -> None:
        """Nothing."""

    def to(self, done: int, total: int) -> None:
        """Nothing."""


def worker_process(job: Any, repeats: int) -> dict[str, float]:
    """Seconds to start a worker process, with and without its model, and of one shard's round trip."""
    from nncift_core.execution.pool import DevicePool
    from nncift_core.execution.work import Request
    from nncift_core.pipeline.exact import plan_exact

    shards = plan_exact(job.problem()).shards

    def ask(pool: Any, number: int) -> float:
        request = Request("exact-influence", job, asdict(shards[number]), {})
        return seconds(lambda: pool.run(str(number), request, Silent()))

    first, full, bare = DevicePool(["cpu"], "process"), [], []
    full.append(ask(first, 0))
    compute = statistics.median(ask(first, n) for n in range(1, 4))
    first.close()
    for _ in range(repeats):
        # Shard 0 is stored by now: no model is loaded for it.
        pool = DevicePool(["cpu"], "process")
        bare.append(ask(pool, 0))
        trips = [ask(pool, n % 4) for n in range(40)]
        pool.close()
    for n in range(4, 4 + repeats):
        pool = DevicePool(["cpu"], "process")
        full.append(ask(pool, n))
        pool.close()
    trip = statistics.median(trips)
    return {
        "start": statistics.median(bare) - trip,
        "start with model": statistics.median(full) - compute,
        "round trip": trip,
    }


def whole_flow(folder: Path, repeats: int) -> float:
    """Seconds of a valuation that finds everything done."""
    from conftest import Project

    from flows.valuation import value_pool
    from tasks.progress import reporter

    reporter.mode = "quiet"
    folder.mkdir()
    project = Project(folder, dict(os.environ))
    project.configure(execution={"isolation": "process"})
    value_pool(folder / "job.toml", project.workspace)
    return statistics.median(
        seconds(lambda: value_pool(folder / "job.toml", project.workspace)) for _ in range(repeats)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task-runs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settle(folder / "home")
        # After the settings: these import Prefect.
        from faults.world import make_job

        from flows import server

        with server.connected(lambda _: None):
            try:
                (folder / "job").mkdir()
                job = make_job(folder / "job")
                single, more = task_runs(job, args.task_runs, args.repeats)
                worker = worker_process(job, args.repeats)
                fixed = whole_flow(folder / "flow", args.repeats)
            finally:
                server.stop()
    show(single, more, worker, fixed, args.task_runs)


def show(single: float, more: float, worker: dict[str, float], fixed: float, count: int) -> None:
    """The tables."""
    print(machine())
    print(f"\n{'what':58} {'cost':>10}")
    for what, cost in (
        (f"task run of one shard ({count} in a flow, one at a time)", single),
        (f"further shard in a task run's group (of {GROUP})", more),
        ("round trip of a shard to its worker process", worker["round trip"]),
    ):
        print(f"{what:58} {1000 * cost:7.1f} ms")
    for what, cost in (
        ("start of a worker process, imports included", worker["start"]),
        ("the same, with a (very small) model", worker["start with model"]),
        ("flow that finds everything done", fixed),
    ):
        print(f"{what:58} {cost:8.2f} s")
    print(f"\n{f'orchestration below {SHARE:.0%} needs':58} {'at least':>10}")
    trip = worker["round trip"]
    for what, cost in (
        ("work per shard, one shard per task run", single + trip),
        (f"work per shard, {GROUP} shards per task run", (single + (GROUP - 1) * more) / GROUP + trip),
        ("work per flow and device (its fixed cost and one start)", fixed + worker["start with model"]),
    ):
        print(f"{what:58} {cost / SHARE:8.1f} s")


if __name__ == "__main__":
    main()
