"""The whole matrix at the paper's size and at a million rows: estimate, store, reduce, ask.

Each part runs in a process of its own, so that its peak memory is its own. Embeddings are random: a value
costs the same whatever it is.

Run: python benchmarks/scale.py [--quick] [--plot docs/images/scale.png]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from machine import machine

from nncift_core.estimator.network import InfluenceNetwork
from nncift_core.estimator.reductions import Reduction
from nncift_core.store.query import query
from nncift_core.store.runs import attempt, publish_table
from nncift_core.store.segments import SegmentStore
from nncift_core.store.tile_writer import TileWriter
from nncift_core.store.workspace import Workspace

D, HIDDEN, TASKS = 1024, 100, 5
PAPER, LARGE = (15_000, 5_000), (1_000_000, 10_000)
CURVE = ((2_000, 5_000), (8_000, 5_000), (32_000, 5_000), (128_000, 5_000))
TILE = 1024
# Rows whose values are in memory at a time.
BLOCK = 8192


def network() -> InfluenceNetwork:
    """A network of random weights."""
    rng = np.random.default_rng(0)
    W1 = rng.normal(size=(HIDDEN, 2 * D)) / np.sqrt(D)
    return InfluenceNetwork.from_weights(W1, rng.normal(size=HIDDEN), rng.normal(size=(1, HIDDEN)), [0.0])


def embeddings(n: int, seed: int) -> Any:
    """[n, D] float32 of length 1."""
    x = np.random.default_rng(seed).standard_normal((n, D), np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def reduced(shape: tuple[int, int], rows: Any, keep: Callable[..., None] | None = None) -> dict[str, Any]:
    """Estimate and reduce; keep: what else is done with a block (first row, values)."""
    net, columns = network(), embeddings(shape[1], 2)
    # The first call compiles or loads the loops.
    net.predict(columns[:64], columns[:64])
    Reduction(1, np.zeros(64, np.int64)).add(0, 0, np.zeros((1, 64), np.float32))
    reduction = Reduction(shape[0], np.arange(shape[1]) * TASKS // shape[1])
    block = min(BLOCK, shape[0])
    out = np.empty((block, shape[1]), np.float32)
    started, predicting = time.perf_counter(), 0.0
    for first in range(0, shape[0], block):
        part = rows[first : first + block]
        began = time.perf_counter()
        values = net.predict(part, columns, out[: len(part)])
        predicting += time.perf_counter() - began
        reduction.add(first, 0, values)
        if keep is not None:
            keep(first, values)
    found = reduction.result()
    assert found.pairs == shape[0] * shape[1] and found.counts.sum() == found.pairs
    return {"seconds": time.perf_counter() - started, "predicting": predicting}


def none(rows: int, columns: int) -> dict[str, Any]:
    """Estimate and reduce, nothing stored."""
    return reduced((rows, columns), embeddings(rows, 1))


def stored(rows: int, columns: int) -> dict[str, Any]:
    """Estimate, reduce and store; then what the stored tiles answer."""
    with tempfile.TemporaryDirectory() as folder:
        store = SegmentStore(Workspace.create(Path(folder) / "ws"), "estimate", "k" * 32)
        x = embeddings(rows, 1)
        row_ids, column_ids = np.arange(rows) + 10**9, np.arange(columns) + 2 * 10**9
        started = time.perf_counter()
        with TileWriter(store, producer="benchmark") as writer:

            def keep(first: int, values: Any) -> None:
                for r in range(0, len(values), TILE):
                    for c in range(0, columns, TILE):
                        tile = values[r : r + TILE, c : c + TILE].copy()
                        at = first + r
                        writer.put(row_ids[at : at + len(tile)], column_ids[c : c + TILE], tile)

            found = reduced((rows, columns), x, keep)
        found["seconds"] = time.perf_counter() - started
        found["bytes"] = sum(os.path.getsize(store.ws.root / f) for f in store.files())
        return found | {"mean": asked(store, row_ids, column_ids)}


def asked(store: SegmentStore, row_ids: Any, column_ids: Any) -> float:
    """Seconds of `nncift query` for the mean of every row, over a run whose estimates these are."""
    sides = [("row", row_ids), ("column", column_ids)]
    members = pa.concat_tables(
        pa.table(
            {
                "side": [side] * len(ids),
                "example_id": ids,
                "content_id": ids,
                "labelled": np.zeros(len(ids), bool),
                "candidate": np.ones(len(ids), bool),
            }
        )
        for side, ids in sides
    )
    with attempt(store.ws, "paper", {}, {}) as current:
        path = publish_table(
            store.ws, "paper", "members", "m" * 32, members, producer="benchmark", parents=()
        )
        matrix = {"function": "less", "members": path, "exact": [], "estimates": store.files()}
        current.publish_result(
            {
                "run_id": "paper",
                "datasets": [],
                "matrix": matrix | {"predictor": "mlp", "design": "block"},
                "tables": {},
                "facts": {},
            }
        )
    started = time.perf_counter()
    means = query(store.ws, "SELECT train_id, avg(influence) AS mean FROM influence GROUP BY 1")
    assert len(means) == len(row_ids)
    return time.perf_counter() - started


def streamed(rows: int, columns: int) -> dict[str, Any]:
    """Estimate and reduce from half-precision embeddings on disk."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        x = np.lib.format.open_memmap(path, "w+", np.float16, (rows, D))
        one = embeddings(min(rows, 50_000), 1).astype(np.float16)
        for first in range(0, rows, len(one)):
            x[first : first + len(one)] = one[: min(len(one), rows - first)]
        x.flush()
        del x, one
        return reduced((rows, columns), np.load(path, mmap_mode="r"))


PARTS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "none": none,
    "stored": stored,
    "streamed": streamed,
}


def part(name: str, shape: tuple[int, int]) -> dict[str, Any]:
    """A part in a process of its own; its figures, pairs/s and peak memory."""
    command = [sys.executable, __file__, "--part", name, *map(str, shape)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"rate": shape[0] * shape[1] / found["seconds"]}


def show(name: str, shape: tuple[int, int], found: dict[str, Any]) -> None:
    """One line of the table."""
    print(
        f"{name:34} {shape[0]:>9,} x {shape[1]:>6,}  {found['seconds']:7.1f} s"
        f"  {found['rate'] / 1e6:6.0f} M pairs/s  predicting {found['predicting']:6.1f} s"
        f"  peak {found['peak_mb']:6,.0f} MB",
        flush=True,
    )


def forecast(large: dict[str, Any], shape: tuple[int, int]) -> None:
    """What a billion rows would take, by the rate measured, and what would break first."""
    rows = 10**9
    hours = rows * shape[1] / large["rate"] / 3600
    scores, tops = rows * TASKS * 8 / 1e9, shape[1] * 16 * 12 / 1e6
    print(f"\na billion rows x {shape[1]:,}: {hours:,.0f} hours on this machine, {hours / 24:,.0f} days")
    print(f"  embeddings on disk in half precision   {rows * D * 2 / 1e12:.1f} TB, read once")
    print(
        f"  row scores in memory                   {scores:,.0f} GB: these break first"
        f" (best rows of every column {tops:.0f} MB)"
    )


def plot(path: Path, curve: list[tuple[tuple[int, int], dict[str, Any]]]) -> None:
    """Time and peak memory against rows, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    rows = [shape[0] for shape, _ in curve]
    for axes, key, label in zip(
        figure.subplots(1, 2), ("seconds", "peak_mb"), ("seconds", "peak memory, MB"), strict=True
    ):
        axes.loglog(rows, [point[key] for _, point in curve], "o-")
        axes.set_xlabel(f"pool rows (x {curve[0][0][1]:,} targets)")
        axes.set_ylabel(label)
        axes.grid(True, which="both", alpha=0.3)
    axes.set_ylim(bottom=100)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--plot", type=Path, help="where to draw time and memory against rows")
    parser.add_argument("--part", nargs=3, metavar=("NAME", "ROWS", "COLUMNS"))
    args = parser.parse_args()
    if args.part:
        name, rows, columns = args.part
        found = PARTS[name](int(rows), int(columns))
        found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found))
        return
    paper, large = ((2_000, 500), (20_000, 500)) if args.quick else (PAPER, LARGE)
    print(f"{machine()}; embeddings of {D}, {HIDDEN} hidden units")
    show('store_matrix = "none"', paper, part("none", paper))
    kept = part("stored", paper)
    show('store_matrix = "all"', paper, kept)
    print(
        f"  {kept['bytes'] / (paper[0] * paper[1]):.2f} bytes per pair; "
        f"mean of every row by nncift query {kept['mean']:.1f} s"
    )
    found = part("streamed", large)
    show("streamed from disk, nothing stored", large, found)
    print("\nrows and time")
    curve = [(shape, part("none", shape)) for shape in (((500, 500), (2_000, 500)) if args.quick else CURVE)]
    for shape, point in curve:
        show("  nothing stored", shape, point)
    forecast(found, large)
    if args.plot:
        plot(args.plot, curve)


if __name__ == "__main__":
    main()
