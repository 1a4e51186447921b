"""Estimators on known exact matrices: quality on unseen pairs, subsets, intervals, seconds.

A folder with influence.npz (less [1400, 280], delift [480, 100]), features.npz and pairs.npz, as its README
describes them, is read; several label draws per line, mean and spread. All rows of a table are of one run.

Run: OMP_NUM_THREADS=1 python benchmarks/estimators.py FOLDER [--draws 3]
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from machine import machine

from nncift_core.estimator.contract import (
    BM25,
    COSINE,
    EMBEDDING,
    ERROR,
    HIDDEN,
    LENGTH,
    LENGTHS,
    LOSS,
    PROXY,
    RESPONSE,
    RESPONSE_COSINE,
    Features,
)  # fmt: skip
from nncift_core.estimator.intervals import conformal
from nncift_core.estimator.metrics import r_squared, spearman_per_target
from nncift_core.estimator.pair_features import Cosine, OfRow, Table
from nncift_core.estimator.registry import make
from nncift_core.studies.draws import draw
from nncift_core.studies.measures import evaluate_fit, fit_and_predict
from nncift_core.studies.subsets import selection_share

Float32 = npt.NDArray[np.float32]
NAMES = (
    "constant", "means", "cosine", "bm25", "length", "proxy",
    "mlp-paper", "mlp", "two-tower", "factor", "ridge", "knn", "kernel",
)  # fmt: skip
LARGE = 4096
SHOWN = ("r2", "spearman", "spearman_per_target", "recall_by_score")


def lab(folder: Path, rows: int, columns: npt.NDArray[Any]) -> Features:
    """Features of the first `rows` pool rows and of the target rows `columns`."""
    f, p = np.load(folder / "features.npz"), np.load(folder / "pairs.npz")
    groups = {
        EMBEDDING: f["embedding"],
        RESPONSE: f["response_embedding"],
        LENGTHS: f["log_lengths"],
        HIDDEN: np.concatenate([f["response_hidden_mean"], f["prompt_hidden_mean"]], axis=1),
        ERROR: f["output_error_mean"],
        LOSS: np.stack([f["loss"], f["loss_without_prompt"]], axis=1),
    }
    pool = {name: np.asarray(x[:rows], np.float32) for name, x in groups.items()}
    target = {name: np.asarray(x[1400:][columns], np.float32) for name, x in groups.items()}
    cut = np.ix_(np.arange(rows), columns)
    pairs = {
        COSINE: Cosine.of(pool[EMBEDDING], target[EMBEDDING]),
        RESPONSE_COSINE: Cosine.of(pool[RESPONSE], target[RESPONSE]),
        BM25: Table(np.asarray(p["bm25"][cut], np.float32)),
        PROXY: Table(np.asarray(p["gradient_proxy"][cut], np.float32)),
        LENGTH: OfRow(pool[LENGTHS][:, 1], len(columns)),
    }
    return Features(np.arange(rows, dtype=np.int64), 10_000 + columns.astype(np.int64), pool, target, pairs)


def spread(values: list[float]) -> str:
    """Mean and standard deviation over draws; "-" where nothing is defined."""
    known = [v for v in values if v is not None and np.isfinite(v)]
    return f"{np.mean(known):6.2f} ±{np.std(known):5.2f}" if known else f"{'-':>13}"


def unseen(features: Features, exact: Float32, design: str, u: float, quadrant: str, draws: int) -> None:
    """Print quality of every estimator on one part of the unseen pairs."""
    print(f"{'':10}" + "".join(f"{name:>15}" for name in ("R2", "Spearman", "per target", "top 10 % rows")))
    for name in NAMES:
        found: dict[str, list[float]] = defaultdict(list)
        for seed in range(draws):
            i, j = draw(design, *exact.shape, u, seed)
            for row in evaluate_fit(features, exact, (i, j), make(name), seed=seed):
                if row.quadrant == quadrant:
                    found[row.metric].append(row.value)
        print(f"{name:10}" + "".join(f"{spread(found[m]):>15}" for m in SHOWN))


def subsets(features: Features, exact: Float32, u: float, draws: int) -> None:
    """Print the share of the exact-over-random gain that 5 % of the rows reach, labels exact where known."""
    for name in ("mlp-paper", "proxy", "kernel"):
        shares: dict[str, list[float]] = defaultdict(list)
        for seed in range(draws):
            i, j = draw("block", *exact.shape, u, seed)
            known = np.zeros(exact.shape, bool)
            known[i, j] = True
            predicted = fit_and_predict(features, exact, (i, j), make(name), seed=seed).values
            for rule in ("top-k", "fl"):
                share, _ = selection_share(exact, predicted, rule, 0.05, known)
                shares[rule].append(np.nan if share is None else share)
        print(f"{name:10}  top-k {spread(shares['top-k'])}   facility location {spread(shares['fl'])}")


def completed(features: Features, exact: Float32, draws: int) -> None:
    """Print quality of the completed matrix, scattered pairs against a square corner of as many."""
    columns = np.tile(np.arange(exact.shape[1]), len(exact))
    for design in ("scattered", "block"):
        r2, per_target = [], []
        for seed in range(draws):
            i, j = draw(design, *exact.shape, 0.2, seed)
            filled = np.array(fit_and_predict(features, exact, (i, j), make("kernel"), seed=seed).values)
            filled[i, j] = exact[i, j]
            truth, guess = exact.ravel().astype(float), filled.ravel().astype(float)
            r2.append(r_squared(truth, guess))
            per_target.append(spearman_per_target(truth, guess, columns))
        print(f"kernel, {len(i)} {design:9} pairs: R2 {spread(r2)}   per target {spread(per_target)}")


def coverage(features: Features, exact: Float32, repetitions: int = 40, audit: int = 200) -> None:
    """Print the share of unseen pairs inside conformal 90 % intervals from scattered audit pairs."""
    inside = []
    for seed in range(repetitions):
        i, j = draw("block", *exact.shape, 0.05, seed % 4)
        predicted = _kept(features, exact, seed % 4, i, j)
        open_ = np.ones(exact.shape, bool)
        open_[i, j] = False
        r, c = np.nonzero(open_)
        chosen = np.random.default_rng(seed).permutation(len(r))
        a, rest = chosen[:audit], chosen[audit:]
        width = conformal(exact[r[a], c[a]], predicted[r[a], c[a]]).half_width
        inside.append(float((np.abs(exact - predicted)[r[rest], c[rest]] <= width).mean()))
    print(
        f"unseen pairs inside: {100 * np.mean(inside):.1f} % ± {100 * np.std(inside):.1f} over {repetitions}"
    )


_predictions: dict[int, Float32] = {}


def _kept(features: Features, exact: Float32, seed: int, i: Any, j: Any) -> Float32:
    if seed not in _predictions:
        _predictions[seed] = fit_and_predict(features, exact, (i, j), make("kernel"), seed=seed).values
    return _predictions[seed]


def seconds(features: Features, exact: Float32) -> None:
    """Print seconds to fit 100,000 labels, and prediction of a larger matrix beside one matrix product of the
    kernel's own size: so many labelled rows and pair vectors inside."""
    i, j = np.repeat(np.arange(500), 200), np.tile(np.arange(200), 500)
    rng = np.random.default_rng(0)
    flat = np.sort(rng.permutation(exact.size)[:100_000])
    # Unlabelled rows and targets, as nearly all of a large matrix are.
    large = features.take(rng.integers(500, exact.shape[0], LARGE), rng.integers(200, exact.shape[1], LARGE))
    large = replace(large, pairs={n: p for n, p in large.pairs.items() if not isinstance(p, Table)})
    few = replace(features, pairs={n: features.pairs[n] for n in large.pairs})
    for name in NAMES:
        took = []
        for labels in ((i, j), np.divmod(flat, exact.shape[1])):
            start = time.process_time()
            make(name).fit(features, *labels, exact[labels], seed=0)
            took.append(time.process_time() - start)
        line = f"{name:10} fit of 100,000 labels: block {took[0]:6.2f} s, scattered {took[1]:6.2f} s"
        if name not in (BM25, "proxy"):
            fitted = make(name).fit(few, i, j, exact[i, j], seed=0)
            seconds_ = _best(lambda fitted=fitted: fitted.predict(large), 2)
            line += f"   prediction {LARGE * LARGE / seconds_ / 1e6:7.1f} M pairs/s"
        print(line)
    inner = 200 + sum(p.rows.shape[1] for p in large.pairs.values() if isinstance(p, Cosine)) + 1
    a, b = torch.rand(LARGE, inner), torch.rand(inner, LARGE)
    took = _best(lambda: torch.mm(a, b))
    print(f"torch.mm [{LARGE}, {inner}] x [{inner}, {LARGE}]: {LARGE * LARGE / took / 1e6:7.1f} M pairs/s")


def _best(call: Callable[[], Any], trials: int = 5) -> float:
    taken = []
    for _ in range(trials):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--draws", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    matrices = np.load(args.folder / "influence.npz")
    less, delift = matrices["less"].astype(np.float32), matrices["delift"]
    features = lab(args.folder, 1400, np.arange(280))
    small = lab(args.folder, 480, matrices["delift_columns"])
    print(f"{machine()}; 1 torch thread; {args.draws} label draws, mean ± standard deviation")
    for u in (0.05, 0.1):
        print(f"\nLESS, block of u = {u}, Q4 (rows and targets without a label)")
        unseen(features, less, "block", u, "Q4", args.draws)
    print("\nLESS, u = 0.1, 5 % selected: share of the gain of exact over random selection")
    subsets(features, less, 0.1, args.draws)
    print("\nDELIFT, matrix completed from 4 % of the pairs")
    completed(small, delift, args.draws)
    print("\nLESS, u = 0.05: conformal intervals from 200 audit pairs")
    coverage(features, less)
    print(f"\nCPU seconds; predictions of {LARGE} x {LARGE} pairs, without the features known as tables")
    seconds(features, less)


if __name__ == "__main__":
    main()
