"""The estimated matrix: pairs per second of every way to compute it, beside the machine's limits, in one run.

Embeddings of 1,024 dimensions, 100 hidden units, two threads. The limit of the network is one maximum and one
addition per hidden unit and pair in registers, nothing read or written; the limit of the two towers is
the fastest matrix product of their shapes. Training: whole fits, and their error on rows that had no label.

Run: python benchmarks/matrix.py [--quick] [--rows 8192] [--columns 4096] [--threads 2]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from llvmlite import binding, ir
from machine import machine
from numba.core import cgutils
from numba.extending import intrinsic

from nncift_core.estimator import fit
from nncift_core.estimator.network import InfluenceNetwork
from nncift_core.estimator.network_calibration import calibrate
from nncift_core.estimator.two_tower import TwoTower

Float32 = npt.NDArray[np.float32]
D, HIDDEN, RANK = 1024, 100, 64
TOWERS, ARITHMETIC = "two towers, rank 64", "limit: maximum and addition"
# Independent sums, so that none waits for another; fewer than there are vector registers.
SUMS = 12
LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8


@intrinsic
def _maxima_and_sums(context, n, least, step):  # type: ignore[no-untyped-def]
    """n times `x = max(x, least) + step` on SUMS vectors in registers; returns a lane of their sum."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        n, *scalars = arguments
        vector, lane = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32)
        undefined = ir.Constant(vector, ir.Undefined)
        everywhere = ir.Constant(ir.VectorType(lane, LANES), [0] * LANES)
        firsts = (builder.insert_element(undefined, x, ir.Constant(lane, 0)) for x in scalars)
        least, step = (builder.shuffle_vector(x, undefined, everywhere) for x in firsts)
        slots = [cgutils.alloca_once(builder, vector) for _ in range(SUMS)]
        value = step
        for slot in slots:
            value = builder.fadd(value, step)
            builder.store(value, slot)
        with cgutils.for_range(builder, n):
            for slot in slots:
                x = builder.load(slot)
                larger = builder.select(builder.fcmp_ordered(">", x, least), x, least)
                builder.store(builder.fadd(larger, step), slot)
        total = builder.load(slots[0])
        for slot in slots[1:]:
            total = builder.fadd(total, builder.load(slot))
        return builder.extract_element(total, ir.Constant(lane, 0))

    return numba.float32(numba.intp, numba.float32, numba.float32), emit


@numba.njit(cache=True, nogil=True)
def _arithmetic(n: int, least: np.float32, step: np.float32) -> np.float32:
    return _maxima_and_sums(n, least, step)


def limit(threads: int, n: int) -> float:
    """Pairs per second that the arithmetic alone allows."""

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda _: _arithmetic(n, np.float32(0.5), np.float32(1e-3)), range(threads)))

    return threads * n * SUMS * LANES / HIDDEN / best(run)


def best(call: Callable[[], Any], repeats: int = 5) -> float:
    """Seconds of the fastest of `repeats` calls, after one that does not count."""
    call()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def made(m: int, n: int, d: int = D) -> tuple[InfluenceNetwork, Float32, Float32]:
    """A network and embeddings of length 1."""
    rng = np.random.default_rng(0)
    shapes = ((HIDDEN, 2 * d), HIDDEN, (1, HIDDEN), 1)
    network = InfluenceNetwork.from_weights(*(rng.normal(size=s) for s in shapes))
    x = rng.normal(size=(m + n, d)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return network, x[:m], x[m:]


def plain(network: InfluenceNetwork, rows: Float32, columns: Float32, batch: int, pairs: int) -> float:
    """Pairs per second of concatenated pairs through torch's linear layers, `batch` at a time."""
    layers = torch.nn.Sequential(torch.nn.Linear(2 * D, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 1))
    with torch.no_grad():
        for layer, W, b in ((layers[0], network.W1, network.b1), (layers[2], network.W2, network.b2)):
            layer.weight.copy_(torch.from_numpy(W))
            layer.bias.copy_(torch.from_numpy(b))
    e, t = torch.from_numpy(rows), torch.from_numpy(columns)
    k = torch.arange(pairs)
    i, j = k // len(t) % len(e), k % len(t)

    def run() -> None:
        with torch.inference_mode():
            for p in range(0, pairs, batch):
                layers(torch.cat([e[i[p : p + batch]], t[j[p : p + batch]]], dim=1))

    return pairs / best(run, 3)


def network_rates(m: int, n: int, quick: bool) -> dict[str, float]:
    """Pairs per second of every way to compute the network's matrix."""
    network, rows, columns = made(m, n)
    shallow, few_rows, few_columns = made(m, n, 16)
    out, few = np.empty((m, n), np.float32), min(m, 1024)
    one, many = (200, 2560) if quick else (5000, 12_800)
    return {
        "one concatenated pair at a time": plain(network, rows, columns, 1, one),
        "128 concatenated pairs at a time": plain(network, rows, columns, 128, many),
        "torch, factorised": few * n / best(lambda: network.predict(rows[:few], columns, kernel="torch"), 3),
        "numba": m * n / best(lambda: network.predict(rows, columns, out, kernel="numba")),
        "numba, 16 dimensions": m
        * n
        / best(lambda: shallow.predict(few_rows, few_columns, out, kernel="numba")),
    }


def towers(m: int, n: int) -> dict[str, float]:
    """Pairs per second of the two-tower estimator's tile, and of matrix products of its inner shapes."""
    rng = np.random.default_rng(0)
    shapes = {"U": (RANK, RANK), "V": (RANK, RANK), "u": (RANK, 1), "v": (RANK, 1), "b": (1,)}
    weights = {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    F, G = (rng.normal(size=(k, RANK)).astype(np.float32) for k in (m, n))
    a, b, out, tower = torch.from_numpy(F), torch.from_numpy(G).T, np.empty((m, n), np.float32), TwoTower()
    held = torch.from_numpy(out)
    calls = {
        TOWERS: lambda: tower._tile(weights, F, G),
        "torch.mm, rank 64": lambda: torch.mm(a, b),
        "torch.mm, rank 64, memory held": lambda: torch.mm(a, b, out=held),
        "numpy, rank 64": lambda: F @ G.T,
        "numpy, rank 64, memory held": lambda: np.matmul(F, G.T, out=out),
    }
    return {name: m * n / best(call) for name, call in calls.items()}


def influence(m: int, n: int) -> tuple[Float32, Float32, Float32]:
    """Embeddings of m rows and n columns, and an influence with smooth, non-linear and random parts."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(48, D)) / np.sqrt(1 + np.arange(48))[:, None]
    x = rng.normal(size=(m + n, 48)) @ basis + 0.05 * rng.normal(size=(m + n, D))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    e, t = x[:m], x[m:]
    U, V, r, c = (rng.normal(size=(D, k)) for k in (6, 6, 1, 1))
    z = 0.5 * np.tanh(e @ U) @ np.tanh(t @ V).T + np.tanh(2 * e @ r) + np.tanh(t @ c).T
    return e.astype(np.float32), t.astype(np.float32), (z + 0.1 * rng.normal(size=z.shape)).astype(np.float32)


def training(m: int, n: int, unseen: int = 150) -> None:
    """Print CPU seconds of both recipes on labels of m rows x n columns, and error on `unseen` other rows."""
    e, t, z = influence(m + unseen, n)
    i, j = (x.ravel() for x in np.indices((m, n)))
    scattered = np.random.default_rng(1).random(m * n) < 0.25
    for name, at in (("block", slice(None)), ("scattered", scattered)):
        taken = {}
        for architecture in ("mlp-paper", "mlp"):
            start = time.process_time()
            labels = (i[at], j[at], z[i[at], j[at]])
            network, report = fit(e, t, *labels, architecture=architecture, hidden=HIDDEN, seed=0)
            taken[architecture] = time.process_time() - start
            error = np.square(network.predict(e[m:], t) - z[m:]).mean() / z[m:].var()
            print(
                f"{name:10} {len(labels[0]):7} labels  {architecture:10} {taken[architecture]:7.2f} CPU s  "
                f"{report.epochs:3} epochs  error {error:.3f} of the variance  "
                f"{taken['mlp-paper'] / taken[architecture]:.1f}x"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="small sizes: only whether everything runs")
    args = parser.parse_args()
    m, n = (512, 1024) if args.quick else (args.rows, args.columns)
    torch.set_num_threads(args.threads)
    print(f"{machine()}; {args.threads} threads; {m} x {n} pairs, {D} dimensions, {HIDDEN} hidden units")

    rates = network_rates(m, n, args.quick)
    of = dict.fromkeys(list(rates), ARITHMETIC)
    rates |= {ARITHMETIC: limit(args.threads, 300_000 if args.quick else 10_000_000)}
    out = np.empty((m, n), np.float32)
    rates |= {"limit: writing the matrix": m * n / best(lambda: out.fill(1))}
    products = towers(m, n)
    rates |= products
    # The fastest product is the machine's rate, whoever computes it.
    of[TOWERS] = max(list(products)[1:], key=products.__getitem__)
    print(f"\n{'':34}{'M pairs/s':>12}{'ratio':>10}  of the limit")
    first = next(iter(rates.values()))
    for name, rate in rates.items():
        share = f"{100 * rate / rates[of[name]]:9.2f}% of {of[name]}" if name in of else ""
        print(f"{name:34}{rate / 1e6:12.3f}{rate / first:10.0f}{share}")
    print(f"\ncalibration: {calibrate(HIDDEN, D).record()}\n")
    training(*((20, 20) if args.quick else (400, 150)))


if __name__ == "__main__":
    main()
