"""What a workspace in an object store costs: requests and seconds of a shard, and of another machine.

An S3 server of its own (moto) answers at once, or as late as a far one. A shard here is what every shard
does around its work: wait for its turn, look at what is stored, keep a tile of 512 x 256 values. The work
itself is left out. A second machine then plans over all tiles, and reads all values.

Run: python benchmarks/object_store.py [--shards 40] [--delays 0 0.05 0.2]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from alone import settle
from machine import machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
ROWS, COLUMNS = 512, 256
KEY = "f" * 32


def shards(where: str | Path, count: int) -> list[float]:
    """Seconds of every shard after the first."""
    from nncift_core.store.segments import SegmentStore
    from nncift_core.store.use import in_use
    from nncift_core.store.workspace import Workspace

    ws = Workspace.create(where)
    values = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    store, columns, took = SegmentStore(ws, "exact", KEY), np.arange(COLUMNS), []
    for number in range(count + 1):
        rows = np.arange(number * ROWS, (number + 1) * ROWS)
        start = time.perf_counter()
        with ws.turn(f"shard-{number}"), in_use(ws):
            store.refresh()
            assert store.missing(rows, columns)
            store.write_tile(rows, columns, values, producer="benchmark")
        took.append(time.perf_counter() - start)
    return took[1:]


def seen(where: str, count: int) -> tuple[float, float]:
    """Seconds until a machine without a mirror has planned over the tiles, and then has read them."""
    from nncift_core.store.segments import SegmentStore
    from nncift_core.store.workspace import Workspace

    rows, columns = np.arange((count + 1) * ROWS), np.arange(COLUMNS)
    start = time.perf_counter()
    store = SegmentStore(Workspace.create(where), "exact", KEY)
    assert store.missing(rows, columns) == 0
    planned = time.perf_counter() - start
    start = time.perf_counter()
    store.fill(rows, columns, np.empty((len(rows), len(columns)), np.float32))
    return planned, time.perf_counter() - start


def measured(folder: Path, count: int, delay: float) -> str:
    """One line of the table."""
    from object_store import Store

    server = Store(folder / f"store-{delay}")
    try:
        os.environ.update(server.env)
        server.fault(delay=delay)
        os.environ["NNCIFT_MIRRORS"] = str(folder / f"a-{delay}")
        took = shards(server.url("ws"), count)
        first = len(server.requests())
        # Requests of one more shard, by the difference of two runs.
        requests = (first - len(_requests_of(server, folder, delay, "one", 1))) / (count - 1)
        os.environ["NNCIFT_MIRRORS"] = str(folder / f"b-{delay}")
        planned, read = seen(server.url("ws"), count)
    finally:
        server.stop()
    took.sort()
    return (
        f"{delay * 1000:8.0f} {requests:9.1f} {statistics.median(took):9.2f} {took[0]:7.2f} {took[-1]:7.2f}"
        f" {planned:9.2f} {read:9.2f}"
    )


def _requests_of(server: object, folder: Path, delay: float, name: str, count: int) -> list[str]:
    before = len(server.requests())  # type: ignore[attr-defined]
    os.environ["NNCIFT_MIRRORS"] = str(folder / f"{name}-{delay}")
    shards(server.url(name), count)  # type: ignore[attr-defined]
    found: list[str] = server.requests()[before:]  # type: ignore[attr-defined]
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--delays", type=float, nargs="+", default=[0.0, 0.05, 0.2])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settle(folder / "prefect")
        print(machine())
        local = sorted(shards(folder / "ws", given.shards))
        print(f"{given.shards} shards of {ROWS} x {COLUMNS} values; seconds around a shard's work")
        print("ms/request requests  s/shard     min     max  planning   reading")
        print(f"  folder         0 {statistics.median(local):9.2f} {local[0]:7.2f} {local[-1]:7.2f}")
        for delay in given.delays:
            print(measured(folder, given.shards, delay), flush=True)


if __name__ == "__main__":
    main()
