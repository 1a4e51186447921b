"""Runs, their attempts, costs and results (design decision 4).

An attempt holds a lock while it lives: one whose lock is free but whose status is "running" was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.errors import UserError
from nncift_core.store.alive import alive, lives_elsewhere
from nncift_core.store.files import is_intact, made_in, now, publish, write_for, write_json, write_json_anyway
from nncift_core.store.locks import is_locked, locked
from nncift_core.store.use import in_use
from nncift_core.store.workspace import Workspace


@dataclass(frozen=True)
class Cost:
    """What one stage of one attempt did: items in all, computed now, reused; seconds; peak memory."""

    stage: str
    device: str
    items: int
    computed: int
    reused: int
    seconds: float
    peak_rss_mb: float


def _summed(a: Cost, b: Cost) -> Cost:
    """Two turns of a stage: the second one's items, if they are not fewer than what both computed."""
    computed = a.computed + b.computed
    items = max(b.items, computed)
    peak = max(a.peak_rss_mb, b.peak_rss_mb)
    return Cost(a.stage, a.device, items, computed, items - computed, a.seconds + b.seconds, peak)


class Attempt:
    """One attempt of a run; writes its record, its costs and, at the end, the run's result.

    series: what runs of one recurring job share, whatever versions their data had; "" of a sweep.
    """

    def __init__(self, ws: Workspace, run_id: str, number: int, record: dict[str, Any]) -> None:
        self.ws, self.run_id, self.number, self.record = ws, run_id, number, record
        self.series = str(record.get("series", ""))
        self._costs: dict[tuple[str, str], Cost] = {}

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.ws.run_dir(self.run_id)

    def cost(self, cost: Cost) -> None:
        """Record a stage's cost at once, so that a killed attempt keeps it; a second turn adds to it."""
        before = self._costs.get((cost.stage, cost.device))
        cost = _summed(before, cost) if before else cost
        self._costs[cost.stage, cost.device] = cost
        name = f"{self.number:04d}-{cost.stage}-{re.sub('[^a-z0-9]', '_', cost.device)}.json"
        row = {"run_id": self.run_id, "attempt": self.number, **asdict(cost)}
        write_json(self.folder / "costs" / name, row)

    def costs(self) -> list[dict[str, Any]]:
        """Cost rows of this attempt, in the order they were written."""
        return read_costs(self.ws, self.run_id, self.number)

    def note(self, **about: Any) -> None:
        """Record more of the attempt, while it runs (which flow run it is, say)."""
        self.record.update(about)
        write_json(self.folder / "attempts" / f"{self.number:04d}.json", self.record)

    def finish(self, status: str, error: str | None = None) -> None:
        """Mark the attempt completed, failed or interrupted; not completed, also while a store is away."""
        self.record.update(status=status, finished_at=now(), error=error)
        write_record = write_json if status == "completed" else write_json_anyway
        write_record(self.folder / "attempts" / f"{self.number:04d}.json", self.record)

    def publish_result(self, result: dict[str, Any]) -> None:
        """Make the run's result visible to the views, in one step."""
        stamped = {**result, "series": self.series, "attempt": self.number, "published_at": now()}
        write_json(self.ws.result_file(self.run_id), stamped)


@contextlib.contextmanager
def attempt(
    ws: Workspace, run_id: str, config: dict[str, Any], versions: dict[str, str], series: str = ""
) -> Iterator[Attempt]:
    """Open the next attempt of a run of `series` and hold its lock; close it by outcome."""
    folder = ws.run_dir(run_id) / "attempts"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "numbering.lock"):
        numbers = [int(p.stem) for p in (*folder.glob("[0-9]*.lock"), *folder.glob("[0-9]*.json"))]
        number = 1 + max(numbers, default=0)
        if ws.mirror is not None:
            number = ws.mirror.number(run_id, number)
        (folder / f"{number:04d}.lock").touch()
    living = alive(ws, f"{run_id}/{number:04d}")
    with living, in_use(ws), (folder / f"{number:04d}.lock").open("a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = {
            "run_id": run_id,
            "series": series,
            "attempt": number,
            "config": config,
            "status": "running",
            "started_at": now(),
            "finished_at": None,
            "versions": versions,
            "error": None,
        }
        write_json(folder / f"{number:04d}.json", record)
        current = Attempt(ws, run_id, number, record)
        write_for(ws.root, f"{run_id}/{number:04d}")
        try:
            yield current
            current.finish("completed")
        except Exception as e:
            current.finish("failed", f"{type(e).__name__}: {e}"[:2000])
            raise
        except BaseException:
            # Ctrl-C, and SIGTERM, of which Prefect makes an exception of its own.
            current.finish("interrupted")
            raise
        finally:
            # What this process writes from here on, before another attempt, is not of this one.
            if made_in(ws.root) == f"{run_id}/{number:04d}":
                write_for(ws.root, "")


def _record(ws: Workspace, path: Path) -> dict[str, Any]:
    """An attempt's record; one that says "running" while nobody holds its lock was killed."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if record["status"] != "running":
        return record
    if ws.mirror is not None and not path.with_suffix(".lock").exists():
        # Of another machine.
        if lives_elsewhere(ws, f"{record['run_id']}/{path.stem}"):
            return record
        ws.look()
        return _killed_or_ended(path)
    return record if is_locked(path.with_suffix(".lock")) else _killed_or_ended(path)


def _killed_or_ended(path: Path) -> dict[str, Any]:
    """The record of an attempt that lives no more; it may have ended well between the two looks."""
    again: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {**again, "status": "killed"} if again["status"] == "running" else again


def note_killed(ws: Workspace, run_id: str, number: int, **about: Any) -> None:
    """Record that an attempt was killed, and more of it; nothing of one that has ended otherwise."""
    path = ws.run_dir(run_id) / "attempts" / f"{number:04d}.json"
    record = _record(ws, path)
    if record["status"] == "killed":
        write_json(path, {**record, **about})


def read_attempts(ws: Workspace) -> list[dict[str, Any]]:
    """Every attempt of every run, oldest first."""
    files = (ws.root / "runs").glob("*/attempts/[0-9]*.json")
    records = [_record(ws, p) for p in files]
    return sorted(records, key=lambda r: str(r["started_at"]))


def read_costs(ws: Workspace, run_id: str | None = None, number: int | None = None) -> list[dict[str, Any]]:
    """Cost rows of one run, or of all; of one attempt by its number, or of all."""
    which = "*" if number is None else f"{number:04d}-*"
    files = (ws.root / "runs").glob(f"{run_id or '*'}/costs/{which}.json")
    ordered = sorted(files, key=lambda p: p.stat().st_mtime_ns)
    return [json.loads(p.read_text(encoding="utf-8")) for p in ordered]


def read_result(ws: Workspace, run_id: str) -> dict[str, Any] | None:
    """The published result of a run, or None."""
    path = ws.result_file(run_id)
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def published(ws: Workspace, series: str) -> list[dict[str, Any]]:
    """Published results of the runs of one series, newest first."""
    ids = sorted(p.parent.name for p in (ws.root / "runs").glob("*/result.json"))
    found = [r for r in (read_result(ws, i) for i in ids) if r is not None and r.get("series") == series]
    return sorted(found, key=lambda r: str(r["published_at"]), reverse=True)


def finished(ws: Workspace, result: dict[str, Any]) -> bool:
    """Whether the attempt that published `result` ended well and every file that its views read is intact."""
    number = int(result["attempt"])
    record = ws.run_dir(result["run_id"]) / "attempts" / f"{number:04d}.json"
    if not record.is_file() or _record(ws, record)["status"] != "completed":
        return False
    if not ws.report_file(result["run_id"]).is_file():
        return False
    m = result["matrix"]
    blocks = [file for d in result["datasets"] for file in (d["path"], *d["blocks"])]
    files = [*blocks, *result["tables"].values(), *m["exact"], *m["estimates"], m["members"]]
    estimator = [m["estimator"]["path"]] if m["estimator"] else []
    return all(intact(ws, f) for f in [*files, *estimator, result["facts"]["subset"]])


def resolve_runs(ws: Workspace, run: str | None, kinds: Collection[str | None] | None = None) -> list[str]:
    """Run ids for `--run`: None = latest with a result, "all", or an id (a unique prefix will do).

    kinds: of which the latest has to be (None among them: a valuation); unset: of any.
    """
    attempts = read_attempts(ws)
    ids = list(dict.fromkeys(a["run_id"] for a in attempts))
    finished = [i for i in ids if read_result(ws, i) is not None]
    if run == "all":
        return finished
    if run is None:
        results = [(i, read_result(ws, i) or {}) for i in finished]
        published = [
            (str(r["published_at"]), i) for i, r in results if kinds is None or r.get("kind") in kinds
        ]
        return [max(published)[1]] if published else []
    matches = [i for i in ids if i.startswith(run)]
    if len(matches) != 1:
        known = ", ".join(ids) or "none"
        raise UserError(
            f"{'no' if not matches else 'more than one'} run {run!r}",
            field="--run",
            mend=f"Runs here: {known}.",
        )
    return [m for m in matches if m in finished]


def publish_table(
    ws: Workspace,
    run_id: str,
    name: str,
    key: str,
    table: pa.Table,
    *,
    producer: str,
    parents: tuple[str, ...],
) -> str:
    """Write a result table of a run under the key of the computation that made it; returns its path."""
    path = ws.run_dir(run_id) / "tables" / f"{name}-{key[:16]}.parquet"
    publish(
        ws.root,
        path,
        lambda p: pq.write_table(table, p, compression="zstd"),
        kind=name,
        key=key,
        rows=len(table),
        producer=producer,
        parents=parents,
    )
    return ws.relative(path)


def intact(ws: Workspace, relative: str) -> bool:
    """Whether a stored file is there and matches its manifest."""
    return is_intact(ws.root / relative)
