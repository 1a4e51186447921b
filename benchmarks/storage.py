"""Size and speed of stored tiles: bytes per pair, write and read rates, a per-row mean in SQL.

Run: python benchmarks/storage.py [--rows 4096 --columns 2048]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
from machine import machine

from nncift_core.store.segments import SegmentStore
from nncift_core.store.workspace import Workspace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=2048)
    parser.add_argument("--tile", type=int, default=1024)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2**62, args.rows + args.columns)
    rows, columns = ids[: args.rows], ids[args.rows :]
    # Influence-like values: a column effect, a row effect and noise, in float32.
    values = (
        rng.normal(0, 0.6, (1, args.columns)) + rng.normal(0, 0.3, (args.rows, 1))
        + rng.normal(0, 0.7, (args.rows, args.columns))
    ).astype(np.float32) * np.float32(0.004)  # fmt: skip
    pairs = values.size
    with tempfile.TemporaryDirectory() as folder:
        ws = Workspace.create(Path(folder) / "ws")
        store = SegmentStore(ws, "estimate", "k" * 32)
        start = time.perf_counter()
        for r in range(0, args.rows, args.tile):
            for c in range(0, args.columns, args.tile):
                part = np.s_[r : r + args.tile, c : c + args.tile]
                store.write_tile(rows[part[0]], columns[part[1]], values[part], producer="benchmark")
        written = time.perf_counter() - start
        files = [ws.root / f for f in store.files()]
        size = sum(f.stat().st_size for f in files)
        start = time.perf_counter()
        out = np.empty((args.rows, args.columns), np.float32)
        SegmentStore(ws, "estimate", "k" * 32).fill(rows, columns, out)
        read = time.perf_counter() - start
        assert np.array_equal(out, values)
        start = time.perf_counter()
        found = duckdb.sql(
            f"SELECT row_content, avg(value) FROM read_parquet({[str(f) for f in files]}) GROUP BY 1"
        ).fetchall()
        mean = time.perf_counter() - start
        assert len(found) == args.rows
    print(machine())
    print(f"{pairs:,} pairs in {len(files)} tiles of {args.tile} x {args.tile}")
    print(f"bytes per pair    {size / pairs:.2f}")
    print(f"write             {pairs / written / 1e6:.1f} M pairs/s (fsync, checksum and manifest included)")
    print(f"read and verify   {pairs / read / 1e6:.1f} M pairs/s")
    print(f"row mean in SQL   {mean:.2f} s")


if __name__ == "__main__":
    main()
