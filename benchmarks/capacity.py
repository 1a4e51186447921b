"""Hours, GPUs, disk and network of large jobs: arithmetic on unit costs, each named with where it comes from.

What this machine can measure is measured by the other benchmarks (docs/benchmarks.md): prediction, planning,
selection, bytes. What needs a GPU is computed from operations per token at an ASSUMED speed, which is printed
first: put your own in.

Run: python benchmarks/capacity.py [TFLOPS_PER_GPU]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

# Assumed, not measured: 40 % of the 989 dense bfloat16 Tflop/s that the maker states for an H100.
TFLOPS = 395.0
GPUS = 8
# Measured: tokens of a row of the instruct pool (benchmarks/compare.py), bytes of a stored pair and pairs/s
# streamed (benchmarks/scale.py), planning (benchmarks/planner.py), facility location (selection.py).
TOKENS = 233
BYTES_PER_PAIR = 3.45
PAIRS_PER_S = 304e6
PLAN_S_PER_ROW, PLAN_GB_PER_ROW = 97.4 / 10e6, 3.4 / 10e6
FL_S, FL_ROWS = 67.0, 100_000
# By definition: an encoder of 1,024 dimensions, its parameters; the sketch of forward_features; LESS's width.
ENCODER, DIMENSIONS, SKETCH, PROJECTED = 0.335e9, 1_024, 4_096, 8_192
U, SCATTERED, SHARE = 0.05, 100_000, 0.1

# Up to how many hours, and how many of the unit an hour has.
UNITS = (("s", 1 / 60, 3600.0), ("min", 1.0, 60.0), ("h", 10_000.0, 1.0), ("years", float("inf"), 1 / 8766))


@dataclass(frozen=True)
class Teacher:
    """A language model: parameters, width of its hidden states, GPUs that hold it in bfloat16."""

    name: str
    parameters: float
    width: int
    gpus: int


TEACHERS = (Teacher("7 B", 7e9, 4_096, 1), Teacher("70 B", 70e9, 8_192, 2))
JOBS = ((100_000, 10_000), (1_000_000, 10_000), (10_000_000, 100_000))


def hours(flops: float, tflops: float) -> float:
    """On all GPUs together."""
    return flops / (tflops * 1e12 * GPUS) / 3600


def told(label: str, hours_: float, why: str) -> None:
    units = (
        ("s", 1 / 60, 3600.0),
        ("min", 1.0, 60.0),
        ("h", 10_000.0, 1.0),
        ("years", float("inf"), 1 / 8766),
    )
    unit, _, per = next(u for u in units if hours_ < u[1])
    print(f"    {label:<52}{hours_ * per:9,.1f} {unit:<5} {why}".rstrip())


def size(bytes_: float) -> str:
    for unit, n in (("TB", 1e12), ("GB", 1e9)):
        if bytes_ >= n:
            return f"{bytes_ / n:,.1f} {unit}"
    return f"{bytes_ / 1e6:,.0f} MB"


def teacher_hours(t: Teacher, rows: int, columns: int, tflops: float) -> None:
    """Forward passes cost 2 operations per parameter and token, a gradient with frozen weights about 4."""
    forward, r, c = 2 * t.parameters, U * rows, U * columns
    every, gradient = (rows + columns) * TOKENS, 4 * t.parameters

    def line(label: str, flops: float, why: str = "") -> None:
        told(label, hours(flops, tflops), why)

    line(f"DELIFT, corner of {U:.0%} x {U:.0%}: {r * c:.1e} pairs", r * c * TOKENS * forward)
    line(f"DELIFT, {SCATTERED:,} scattered pairs", SCATTERED * 2 * TOKENS * forward)
    line("DELIFT, every pair exact", rows * columns * TOKENS * forward)
    line(f"LESS, {U:.0%} of rows, all columns", (r + columns) * TOKENS * gradient, "per checkpoint")
    line("LESS, every row", every * gradient, "per checkpoint")
    line("what estimators read of the teacher", every * forward, "one pass per row")


def job(rows: int, columns: int, tflops: float) -> None:
    pairs = rows * columns
    print(f"{rows:,} x {columns:,} = {pairs:.0e} pairs")
    for t in TEACHERS:
        print(f"  {t.name} teacher, {GPUS} GPUs ({GPUS // t.gpus} slots of {t.gpus})")
        teacher_hours(t, rows, columns, tflops)
        stored = (rows + columns) * 4 * (4 + 3 * t.width + SKETCH)
        print(f"    what estimators read, on disk and over the network once: {size(stored)}")
    print("  whatever the teacher")
    told("embeddings, rows and responses", hours(2 * (rows + columns) * TOKENS * 2 * ENCODER, tflops),
         f"{size(2 * (rows + columns) * DIMENSIONS * 4)} stored")  # fmt: skip
    told("prediction, 2 CPU cores", pairs / PAIRS_PER_S / 3600,
         f"{size(pairs * BYTES_PER_PAIR)} if store_matrix = all, nothing if none")  # fmt: skip
    told("planning", rows * PLAN_S_PER_ROW / 3600, f"{rows * PLAN_GB_PER_ROW:.1f} GB")
    squared = FL_S * (rows / FL_ROWS) ** 2 / 3600
    told(f"facility location, {SHARE:.0%} picked, if it grew as n^2", squared, "partitions make it linear")
    print(f"    LESS features of every row: {size((rows + columns) * PROJECTED * 4)} per checkpoint")


def main(tflops: float) -> None:
    print(f"assumed: {tflops:.0f} Tflop/s per GPU, {GPUS} GPUs; {TOKENS} tokens per row")
    for rows, columns in JOBS:
        job(rows, columns, tflops)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else TFLOPS)
