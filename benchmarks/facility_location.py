"""Time facility location (`fl`) against a plain numpy lazy greedy, on random clustered similarity.

    OMP_NUM_THREADS=1 python benchmarks/facility_location.py --n 2000 8000 --fraction 0.3

Prints one row per n: budget, seconds of the library (compilation apart), seconds of the plain one,
whether both picked the same rows in the same order; then the machine.
"""

from __future__ import annotations

import argparse
import heapq
import os
import platform
import time
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt

from nncift_core.selection import facility_location

Float32 = npt.NDArray[np.float32]


def clustered_similarity(n: int, seed: int, dimensions: int = 64, clusters: int = 50) -> Float32:
    """(1 + cosine) / 2 of n points around random centres, [candidate, represented] C-contiguous."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dimensions))
    points = centres[rng.integers(clusters, size=n)] + 0.7 * rng.normal(size=(n, dimensions))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return ((1 + points @ points.T) / 2).astype(np.float32)


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


def processor() -> str:
    """The processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Read the arguments, time both, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--n", type=int, nargs="+", default=[2000], help="numbers of candidates")
    parser.add_argument("--fraction", type=float, default=0.3, help="budget as a share of n")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3, help="runs of the library; the fastest counts")
    args = parser.parse_args()

    facility_location(clustered_similarity(8, args.seed).T, 2)
    print(f"{'n':>7} {'budget':>7} {'seconds':>9} {'plain numpy':>12} {'ratio':>7}  same order")
    for n in args.n:
        rows, budget = clustered_similarity(n, args.seed), max(1, round(args.fraction * n))
        times = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            selection = facility_location(rows.T, budget)
            times.append(time.perf_counter() - start)
        start = time.perf_counter()
        order = plain_lazy_greedy(rows, budget)
        plain, best = time.perf_counter() - start, min(times)
        same = "yes" if order == selection.order.tolist() else "no"
        print(f"{n:>7} {budget:>7} {best:>9.4f} {plain:>12.3f} {plain / best:>6.0f}x  {same}")
    print(
        f"machine: {processor()}, {os.cpu_count()} cores, one used; Python {platform.python_version()}, "
        f"numpy {np.__version__}, numba {numba.__version__}"
    )


if __name__ == "__main__":
    main()
