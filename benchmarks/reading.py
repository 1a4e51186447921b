"""What reading a pool and storing its rows costs: seconds and peak memory, against the size of its file.

Synthetic rows of about 1 KB as JSON Lines; the product's own reader and writer, in a process of their own for
each size. "again" is a second run over the same file, which writes nothing.

Run: python benchmarks/reading.py [ROWS ...]
"""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from machine import machine

ROWS = (100_000, 1_000_000)


def written(path: Path, rows: int) -> None:
    """A file of `rows` rows."""
    draw = random.Random(0)
    words = [f"w{n:04d}" for n in range(5_000)]
    with path.open("w", encoding="utf-8") as f:
        for n in range(rows):
            texts = {
                k: " ".join(draw.choices(words, k=size)) for k, size in (("prompt", 60), ("response", 110))
            }
            f.write(json.dumps({**texts, "source": f"s{n % 5}"}) + "\n")


def peak() -> float:
    """Peak memory of this process, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measured(file: Path, folder: Path) -> None:
    """Print what one file costs."""
    from nncift_core.config import DatasetConfig
    from nncift_core.datasets import read_dataset
    from nncift_core.store.dataset_writer import store_dataset
    from nncift_core.store.workspace import Workspace

    before, ws = peak(), Workspace.create(folder)
    store = partial(
        store_dataset, ws, dataset="pool", role="pool", block_rows=16_384, fingerprint="synthetic"
    )
    print(f"{file.stat().st_size / 1e9:.2f} GB of JSON Lines")
    for what in ("read, stored", "again"):
        begun = time.perf_counter()
        rows, _ = read_dataset(DatasetConfig(source=str(file)), ".")
        between, held = time.perf_counter(), peak() - before
        found = store(rows)
        ended = time.perf_counter()
        print(
            f"  {what:<13} {found.rows:>10,} rows, {found.new_rows:>10,} new: "
            f"reading {between - begun:6.1f} s, storing {ended - between:6.1f} s; "
            f"peak {held:.2f} GB, then {peak() - before:.2f} GB"
        )
        del rows


def main() -> None:
    """Measure each size."""
    print(machine())
    for rows in [int(a.replace(",", "")) for a in sys.argv[1:]] or ROWS:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pool.jsonl"
            written(file, rows)
            process = multiprocessing.get_context("spawn").Process(
                target=measured, args=(file, Path(folder) / "ws")
            )
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(process.exitcode)


if __name__ == "__main__":
    main()
