"""Size and speed of stored tiles: bytes per pair, write and read rates, a per-row mean in SQL.

Then one table of all pairs under several Parquet encodings, which is what the tiles' encoding was chosen by.

Run: python benchmarks/storage.py [--rows 4096 --columns 2048]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from machine import machine

from nncift_core.store.segments import ROW_GROUP, SCHEMA, SegmentStore
from nncift_core.store.workspace import Workspace

_IDS = ["row_content", "column_content"]
ENCODINGS: dict[str, dict[str, Any]] = {
    "library's defaults (dictionary on values too)": {},
    "ids dictionary, values plain, zstd (ours)": {"compression": "zstd", "use_dictionary": _IDS},
    "ids dictionary, values split by bytes, zstd": {
        "compression": "zstd",
        "use_dictionary": _IDS,
        "column_encoding": {"value": "BYTE_STREAM_SPLIT"},
    },
    "ids dictionary and zstd, values plain, no compression": {
        "compression": {"row_content": "zstd", "column_content": "zstd", "value": "none"},
        "use_dictionary": _IDS,
    },
    "ids dictionary, values plain, lz4": {"compression": "lz4", "use_dictionary": _IDS},
    "ids delta, values split by bytes, zstd": {
        "compression": "zstd",
        "use_dictionary": False,
        "column_encoding": dict.fromkeys(_IDS, "DELTA_BINARY_PACKED") | {"value": "BYTE_STREAM_SPLIT"},
    },
}


def encoded(
    table: pa.Table, folder: Path, settings: dict[str, Any]
) -> tuple[int, float, float, float, float]:
    """Bytes; seconds to write, to read the values, for a mean per row, and for one row in a hundred."""
    path, seconds = folder / "table.parquet", []
    few = ", ".join(str(r) for r in pc.unique(table["row_content"]).to_pylist()[::100])
    for call in (
        lambda: pq.write_table(table, path, row_group_size=ROW_GROUP, **settings),
        lambda: pq.read_table(path, columns=["value"]),
        lambda: duckdb.sql(f"SELECT row_content, avg(value) FROM '{path}' GROUP BY 1").fetchall(),
        lambda: duckdb.sql(f"SELECT sum(value) FROM '{path}' WHERE row_content IN ({few})").fetchall(),
    ):
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
        seconds.append(min(taken))
    write, read, mean, some = seconds
    return path.stat().st_size, write, read, mean, some


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
        rows_of, columns_of = np.repeat(rows, args.columns), np.tile(columns, args.rows)
        table = pa.table([rows_of, columns_of, values.ravel()], schema=SCHEMA)
        measured = [(name, *encoded(table, Path(folder), made)) for name, made in ENCODINGS.items()]
    print(machine())
    print(f"{pairs:,} pairs in {len(files)} tiles of {args.tile} x {args.tile}")
    print(f"bytes per pair    {size / pairs:.2f}")
    print(f"write             {pairs / written / 1e6:.1f} M pairs/s (fsync, checksum and manifest included)")
    print(f"read and verify   {pairs / read / 1e6:.1f} M pairs/s")
    print(f"row mean in SQL   {mean:.2f} s")
    print(
        f"\n{'encoding':52} {'bytes/pair':>10} {'write':>8} {'read':>8} {'row mean':>9} {'1 % of rows':>12}"
    )
    for name, size_, *seconds in measured:
        print(f"{name:52} {size_ / pairs:10.2f}" + "".join(f"{x:8.2f} s" for x in seconds))


if __name__ == "__main__":
    main()
