"""What planning a job costs whose pool has millions of rows: seconds and peak memory of every step.

The store holds synthetic rows (identities without texts) and, in the second plan, the label tiles of every
block; what plans is the product's own planner. No model runs. Minutes for 10,000,000 rows.

Run: python benchmarks/planner.py [ROWS] [COLUMNS]
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import machine

ROWS, COLUMNS, BLOCK, FRACTION = 10_000_000, 10_000, 16_384, 0.01


def identities(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Example ids, content ids and text ids [rows] as hashes would give them."""
    drawn = np.random.default_rng(seed).integers(1, 1 << 62, size=(3, rows))
    return drawn[0], drawn[1], drawn[2]


def stored(ws: Any, role: str, rows: int, seed: int) -> Any:
    """A data set of `rows` rows without texts, in blocks, as ingesting leaves it."""
    from nncift_core.store.datasets import BLOCK_SCHEMA, VERSION_SCHEMA
    from nncift_core.store.files import publish
    from nncift_core.store.references import DatasetRef

    folder, name = ws.dataset_dir(role, role), f"synthetic-{role}"
    example, content, text = identities(rows, seed)
    ids = {"example_id": pa.array(example), "content_id": pa.array(content), "text_id": pa.array(text)}

    def written(path: Path, schema: pa.Schema, low: int, high: int, kind: str) -> None:
        part = {k: v.slice(low, high - low) for k, v in ids.items()}
        rest = {f.name: pa.array(np.arange(low, high)) for f in schema if f.name == "row_number"}
        empty = [f.name for f in schema if f.name not in part and f.name not in rest]
        rest |= {n: pa.repeat(pa.scalar("", schema.field(n).type), high - low) for n in empty}
        table = pa.table(part | rest, schema=schema)
        publish(ws.root, path, lambda p: pq.write_table(table, p, compression="zstd"), kind=kind,
                key=name, rows=len(table), producer="synthetic")  # fmt: skip

    for number, low in enumerate(range(0, rows, BLOCK)):
        high = min(rows, low + BLOCK)
        written(folder / "blocks" / f"{number:06d}-{name}.parquet", BLOCK_SCHEMA, low, high, "dataset-block")
    path = folder / "versions" / f"{name}.parquet"
    written(path, VERSION_SCHEMA, 0, rows, "dataset-version")
    return DatasetRef(role=role, dataset=name, version=name, path=ws.relative(path), rows=rows)


def config() -> Any:
    from nncift_core.config import parse_config

    return parse_config(
        {
            "pool": {"source": "builtin:pool"},
            "target": {"source": "builtin:target"},
            "influence": {"function": "delift-se", "label_fraction": FRACTION, "labels": "block"},
            "shards": {"rows": BLOCK, "columns": BLOCK},
        }
    )


def in_process(work: Any, *given: Any) -> list[tuple[str, float, float]]:
    """Run `work(lap, *given)` in a process of its own, so that peaks of memory are its own; returns its laps:
    name, seconds, peak GB so far."""
    receive, send = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_timed, args=(send, work, given))
    process.start()
    found: list[tuple[str, float, float]] = receive.recv()
    process.join()
    return found


def _timed(send: Any, work: Any, given: tuple[Any, ...]) -> None:
    laps, last = [], time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
        laps.append((name, time.perf_counter() - last, peak))
        last = time.perf_counter()

    work(lap, *given)
    send.send(laps)


def plan(lap: Any, root: Path, refs: list[Any]) -> None:
    """Every plan of a valuation over the data sets of `refs`."""
    from nncift_core.pipeline.embed import plan_embed
    from nncift_core.pipeline.estimate import plan_estimate
    from nncift_core.pipeline.exact import plan_exact
    from nncift_core.pipeline.problem import Problem, keys_of
    from nncift_core.store.references import EstimatorRef
    from nncift_core.store.workspace import Workspace

    ws, job = Workspace(root), config()
    lap("imports")
    problem = Problem.load(ws, job, keys_of(job), refs)
    lap(f"data sets: {len(problem.rows):,} rows, {len(problem.columns):,} columns")
    shards, total = plan_embed(problem)
    lap(f"embed: {total:,} texts in {len(shards):,} shards")
    exact = plan_exact(problem)
    lap(f"exact: {exact.pairs:,} pairs, {exact.missing:,} of them missing, {len(exact.shards):,} shards")
    ref = EstimatorRef(key="0" * 32, path="", architecture="mlp", learned=True, chosen=False, labels=0)
    estimates = plan_estimate(problem, ref)
    lap(f"estimate: {sum(s.missing for s in estimates):,} pairs in {len(estimates):,} shards")


def fill(lap: Any, root: Path, refs: list[Any]) -> None:
    """Store the label tiles of every block, as a run that was killed before it fitted leaves them."""
    from nncift_core.pipeline.exact import plan_exact
    from nncift_core.pipeline.problem import Problem, keys_of
    from nncift_core.store.workspace import Workspace

    ws, job = Workspace(root), config()
    problem = Problem.load(ws, job, keys_of(job), refs)
    tiles = [s for s in plan_exact(problem).shards if s.layout == "tile"]
    for s in tiles:
        values = np.zeros((len(s.rows), len(s.columns)), np.float32)
        problem.exact_store.write_tile(np.array(s.rows), np.array(s.columns), values, producer="synthetic")
    lap(f"{len(tiles):,} tiles stored")


def told(laps: list[tuple[str, float, float]]) -> None:
    for name, seconds, peak in laps:
        print(f"  {name:<74} {seconds:7.1f} s   peak {peak:5.2f} GB")
    print(f"  {'all':<74} {sum(s for _, s, _ in laps):7.1f} s")


def main(rows: int, columns: int) -> None:
    from nncift_core.store.workspace import Workspace

    print(f"{machine()}; {rows:,} x {columns:,}, blocks of {BLOCK:,} rows, u = {FRACTION}")
    with tempfile.TemporaryDirectory() as folder:
        ws = Workspace.create(Path(folder) / "ws")
        refs = [stored(ws, "pool", rows, 0), stored(ws, "target", columns, 1)]
        print("a new job:")
        told(in_process(plan, ws.root, refs))
        in_process(fill, ws.root, refs)
        print("the same with its label tiles stored:")
        told(in_process(plan, ws.root, refs))


if __name__ == "__main__":
    numbers = [int(a.replace(",", "")) for a in sys.argv[1:3]]
    main(*(numbers + [ROWS, COLUMNS][len(numbers) :]))
