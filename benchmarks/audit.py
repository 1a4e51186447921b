"""Do values of LESS and DELIFT, exact and estimated, say what training does? Beside cheap baselines.

Run: python benchmarks/audit.py ../shared/data [MODELS] [ROWS]   (needs the data files named below; tens of
minutes with the defaults on 2 cores)
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from alone import settle
from machine import machine

from nncift_core.devices import usable_cores

ROWS, QUERIES, MODELS, SEED = 300, 24, 40, 0
# Short rows: forty models of half the pool are trained.
LONGEST = 600


def short(table: pa.Table, rows: int, seed: int) -> pa.Table:
    """Rows of at most LONGEST characters, drawn by the seed."""
    lengths = [
        sum(len(r[name] or "") for name in ("instruction", "input", "output")) for r in table.to_pylist()
    ]
    found = np.flatnonzero(np.array(lengths) <= LONGEST)
    return table.take(np.sort(np.random.default_rng(seed).permutation(found)[:rows]))


def config_of(data: Path, folder: Path, models: int, rows: int) -> dict[str, Any]:
    """Pool and queries cut from `data` into `folder`, and the job over them."""
    pq.write_table(short(pq.read_table(data / "instruct_pool.parquet"), rows, SEED), folder / "pool.parquet")
    for name in ("gsm8k", "bbh"):
        table = pq.read_table(data / f"instruct_target_{name}.parquet")
        table = table.filter(pa.compute.equal(table["split"], "validation"))
        if name == "bbh":
            # One task for all of them: one row of each says nothing by itself.
            table = table.set_column(table.column_names.index("task"), "task", pa.array(["bbh"] * len(table)))
        pq.write_table(short(table, QUERIES // 2, SEED), folder / f"{name}.parquet")
    return {
        "pool": {"source": str(folder / "pool.parquet")},
        "target": {"source": [str(folder / "gsm8k.parquet"), str(folder / "bbh.parquet")]},
        "influence": {"function": "less", "label_fraction": 0.2},
        "finetune": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "rank": 8},
        "audit": {
            "functions": ["less", "delift"], "baselines": ["bm25", "similarity", "length", "random"],
            "models": models, "remove": [0.05], "removed_queries": 2, "controls": 3,
            "tests": ["lds", "top-k", "duplicates", "wrong"],
        },
        # A small model keeps one core busy, hardly two: a slot for each core, and shards for both.
        "shards": {"rows": 75},
        "execution": {"devices": ["cpu"] * usable_cores()},
    }  # fmt: skip


def told(result: Any, seconds: float) -> None:
    """The stages' costs, and seconds of one model."""
    print(f"{seconds:,.0f} s in all")
    for cost in result.costs:
        if cost["seconds"] >= 1:
            done = f"{cost['computed']:>9,} of {cost['items']:>9,}"
            print(f"  {cost['stage']:<44}{done}  {cost['seconds']:8.1f} s")
    trained = next(c for c in result.costs if c["stage"] == "fine-tune")
    print(f"  {trained['seconds'] / result.facts['models']:.1f} s a model")


def main(data: Path, models: int, rows: int) -> None:
    print(f"{machine()}; {rows} pool rows, {QUERIES} queries, {models} subset models")
    with tempfile.TemporaryDirectory() as folder:
        settle(Path(folder) / "prefect")
        from flows.server import stop

        try:
            audited(data, Path(folder), models, rows)
        finally:
            stop()


def audited(data: Path, folder: Path, models: int, rows: int) -> None:
    """The audit and its tables, then what another function costs beside it."""
    from flows.audit import audit_values
    from flows.audit_summary import show_audit
    from tasks.progress import reporter

    reporter.mode = "quiet"
    config = config_of(data, folder, models, rows)
    start = time.perf_counter()
    result = audit_values(config, folder / "ws")
    told(result, time.perf_counter() - start)
    show_audit(result)
    # A method more costs its values alone.
    config["audit"] |= {"functions": ["less", "delift", "delift-se"], "tests": ["lds"]}
    start = time.perf_counter()
    more = audit_values(config, folder / "ws")
    trained = sum(c["computed"] for c in more.costs if c["stage"] == "fine-tune")
    print(f"another function: {time.perf_counter() - start:,.0f} s, {trained:,} training rows")


if __name__ == "__main__":
    numbers = [int(a) for a in sys.argv[2:4]]
    main(Path(sys.argv[1]).resolve(), *(numbers + [MODELS, ROWS][len(numbers) :]))
