"""Facility location: against submodlib and plain numpy, and at scale, each with its objective.

Run: python benchmarks/selection.py [--quick] [--scale N ...]

submodlib is compared where it is installed (`pip install submodlib-py`); its constructor, which copies the
kernel into C++, is not counted, nor is numba's compilation. "worst step" replays an order in float64: the
most by which any pick's gain fell short of the best gain at its step. Large pools run in a process of their
own each, so that the peak of memory is theirs; "random" is the objective of equally many random rows.
"""

from __future__ import annotations

import argparse
import heapq
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from machine import machine

from nncift_core.selection import (
    EmbeddingRows,
    ScaleOptions,
    Selection,
    facility_location,
    facility_location_at_scale,
    facility_location_conditional_gain,
    facility_location_mutual_information,
)

Float32 = npt.NDArray[np.float32]
ETA, NU = 0.5, 0.5


def points(n: int, dimensions: int, per_cluster: int, seed: int = 0) -> Float32:
    """n points around n / per_cluster random centres, [n, dimensions]."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(4, n // per_cluster), dimensions)).astype(np.float32)
    noise = rng.normal(size=(n, dimensions)).astype(np.float32)
    return centres[rng.integers(len(centres), size=n)] + np.float32(0.7) * noise


def similarity(n: int, columns: int, seed: int) -> Float32:
    """(1 + cosine) / 2 of n candidates with `columns` items (n: with themselves), [n, columns]."""
    x = points(n if columns == n else n + columns, 64, 40, seed)
    return EmbeddingRows(x[:n], x[-columns:]).rows(0, n)


def plain_lazy_greedy(rows: Float32, budget: int) -> list[int]:
    """Minoux's lazy greedy with heapq and one numpy expression per gain; ties to the lowest index."""
    cover = np.zeros(rows.shape[1], np.float32)

    def gain(a: int) -> float:
        return float(np.maximum(rows[a] - cover, 0).sum(dtype=np.float64))

    heap = [(-gain(a), a) for a in range(len(rows))]
    heapq.heapify(heap)
    order: list[int] = []
    while len(order) < budget:
        _, a = heapq.heappop(heap)
        fresh = (-gain(a), a)
        if heap and fresh > heap[0]:
            heapq.heappush(heap, fresh)
            continue
        order.append(a)
        np.maximum(cover, rows[a], out=cover)
    return order


def submodlib_greedy(kind: str, rows: Float32, existing: Float32, budget: int) -> tuple[list[int], float]:
    """submodlib's LazyGreedy: order, and seconds of `maximize`."""
    import submodlib

    n = len(rows)
    if kind == "FL":
        f = submodlib.FacilityLocationFunction(n=n, mode="dense", sijs=rows.T.copy(), separate_rep=False)
    elif kind == "FLMI":
        f = submodlib.FacilityLocationVariantMutualInformationFunction(
            n=n, num_queries=rows.shape[1], query_sijs=rows, queryDiversityEta=ETA
        )
    else:
        f = submodlib.FacilityLocationConditionalGainFunction(
            n=n, num_privates=existing.shape[1], data_sijs=rows.T.copy(), private_sijs=existing,
            privacyHardness=NU,
        )  # fmt: skip
    start = time.perf_counter()
    picks = f.maximize(
        budget=budget, optimizer="LazyGreedy", stopIfZeroGain=False, stopIfNegativeGain=False,
        show_progress=False,
    )  # fmt: skip
    return [a for a, _ in picks], time.perf_counter() - start


def worst_step(kind: str, rows: Float32, existing: Float32, order: list[int], every: int) -> float:
    """Replay in float64, looking at every `every`-th step: best gain less the pick's gain, at worst."""
    cover = np.zeros(rows.shape[1])
    modular = np.zeros(len(rows))
    if kind == "FLMI":
        modular = ETA * rows.max(axis=1).astype(np.float64)
    if kind == "FLCG":
        cover = NU * existing.max(axis=1).astype(np.float64)
    open_, worst = np.ones(len(rows), bool), 0.0
    for step, picked in enumerate(order):
        if step % every == 0:
            gains = np.empty(len(rows))
            for a in range(0, len(rows), 512):
                gains[a : a + 512] = np.maximum(rows[a : a + 512] - cover, 0).sum(axis=1)
            gains += modular
            worst = max(worst, float(gains[open_].max() - gains[picked]))
        open_[picked] = False
        np.maximum(cover, rows[picked], out=cover)
    return worst


def best_of(run: Callable[[], Selection], repeats: int) -> tuple[Selection, float]:
    """The result and the fastest of `repeats` runs, in seconds, after one that compiles."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        selection = run()
        times.append(time.perf_counter() - start)
    return selection, min(times)


def against_others(n: int, fraction: float, replayed: int, plain: bool) -> None:
    """Rows of the table for FL, FLMI (n targets) and FLCG (200 existing) at one n."""
    budget = round(fraction * n)
    pool, targets = similarity(n, n, 0), similarity(n + 1, n, 1)[:n]
    existing = similarity(n, 200, 2)
    calls: dict[str, tuple[Float32, Callable[[], Selection]]] = {
        "FL": (pool, lambda: facility_location(pool.T, budget)),
        "FLMI": (targets, lambda: facility_location_mutual_information(targets.T, budget, ETA)),
        "FLCG": (pool, lambda: facility_location_conditional_gain(pool.T, existing, budget, NU)),
    }
    for kind, (rows, call) in calls.items():
        selection, seconds = best_of(call, 3)
        every = max(1, budget // replayed)
        ours = worst_step(kind, rows, existing, selection.order.tolist(), every)
        line = f"{n:>6} {budget:>6} {kind:<5}{seconds:>9.4f}{ours:>12.1e}"
        try:
            order, theirs = submodlib_greedy(kind, rows, existing, budget)
        except ImportError:
            line += "    submodlib is not installed"
        else:
            shortfall = worst_step(kind, rows, existing, order, every)
            line += f"{theirs:>11.3f}{shortfall:>12.1e}{theirs / seconds:>7.0f}x"
        if kind == "FL" and plain:
            start = time.perf_counter()
            same = plain_lazy_greedy(rows, budget) == selection.order.tolist()
            line += f"{time.perf_counter() - start:>10.2f} s, {'same order' if same else 'another order'}"
        print(line, flush=True)


def scale_row(n: int, fraction: float, dimensions: int, mode: str) -> None:
    """One line: facility location of n rows with themselves from their embeddings, in this process."""
    kernel = EmbeddingRows(points(n, dimensions, 100))
    budget = round(fraction * n)
    warm = kernel.part(np.arange(64), np.arange(64))
    facility_location_at_scale(warm, 8, mode=mode, options=ScaleOptions(neighbours=8))  # type: ignore[arg-type]
    start = time.perf_counter()
    selection = facility_location_at_scale(kernel, budget, mode=mode)  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    drawn = np.random.default_rng(1).choice(n, budget, replace=False)
    cover = np.full(n, -np.inf, np.float32)
    for a in range(0, budget, 512):
        np.maximum(cover, kernel.take(drawn[a : a + 512]).max(axis=0), out=cover)
    gap = "" if selection.gap is None else f"{100 * selection.gap:>9.4f} %"
    print(
        f"{n:>7} {budget:>6} {selection.mode:<12}{seconds:>9.2f}{peak:>9.0f}{selection.objective / n:>11.5f}"
        f"{float(cover.sum(dtype=np.float64)) / n:>9.5f}{gap}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds")
    parser.add_argument("--n", type=int, nargs="*", default=[2000, 8000], help="sizes against submodlib")
    parser.add_argument("--fraction", type=float, default=0.3, help="their budget as a share of n")
    parser.add_argument("--scale", type=int, nargs="*", default=[10_000, 20_000, 50_000, 100_000])
    parser.add_argument("--scale-fraction", type=float, default=0.1)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--modes", nargs="+", default=["auto"], help="auto, exact, sparse, stochastic, ...")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        scale_row(args.scale[0], args.scale_fraction, args.dimensions, args.modes[0])
        return
    if args.quick:
        args.n, args.scale, args.modes = [1000], [2000], ["exact", "sparse", "stochastic", "partitioned"]
    print(machine())
    if args.n:
        print(
            f"\n{'n':>6} {'picks':>6} {'':<5}{'seconds':>9}{'worst step':>12}{'submodlib':>11}"
            f"{'worst step':>12}{'ratio':>8}   plain numpy"
        )
    for n in args.n:
        against_others(n, args.fraction, replayed=24, plain=n <= 2000 or not args.quick)
    if args.scale:
        print(
            f"\n{'n':>7} {'picks':>6} {'mode':<12}{'seconds':>9}{'peak MB':>9}{'f/n':>11}{'random':>9}"
            "  gap to exact on a subsample"
        )
    for n in args.scale:
        for mode in args.modes:
            options = ["--scale-fraction", str(args.scale_fraction), "--dimensions", str(args.dimensions)]
            command = [sys.executable, __file__, "--row", "--scale", str(n), "--modes", mode, *options]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
