"""Estimators on a fresh exact matrix: the tables of `estimators.py`, as ratios, by the built-in model.

Exact LESS of pool rows x target rows is computed by `nncift sweep` in a folder of its own (or taken from
--workspace, where an earlier run left it); then several label draws per line, mean and spread. Also: what the
embedding contributes (built-in encoder against hashed words), a domain that came after the labels, the gate's
verdicts on noise, on shuffled labels and on a learnable matrix, seconds of a choice among all candidates, and
peak memory.

Run: OMP_NUM_THREADS=2 python benchmarks/estimators_fresh.py FOLDER [--rows 700] [--columns 140]
FOLDER holds instruct_pool.parquet and instruct_target_*.parquet.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from estimators import NAMES, SHOWN, spread
from machine import machine

from flows.sweep import study_estimators
from nncift_core.config import load_config
from nncift_core.estimator.choice import choose
from nncift_core.estimator.contract import COSINE, EMBEDDING, RESPONSE, RESPONSE_COSINE, Features
from nncift_core.estimator.drift import Drift, drift
from nncift_core.estimator.gate import judge
from nncift_core.estimator.pair_features import Cosine
from nncift_core.estimator.registry import make
from nncift_core.pipeline.inputs import read_inputs
from nncift_core.pipeline.problem import Problem, keys_of
from nncift_core.pipeline.state import needs_state, plan_state
from nncift_core.pipeline.sweep import Corner, material_of, study_config
from nncift_core.store.dataset_writer import identify, store_dataset
from nncift_core.store.workspace import Workspace
from nncift_core.studies.draws import draw
from nncift_core.studies.fits import Material
from nncift_core.studies.measures import evaluate_fit, fit_and_predict
from nncift_core.studies.subsets import selection_share
from tasks.progress import reporter

TARGETS = ("gsm8k", "bbh", "code", "mmlu", "t0_extractive_qa")
CONFIG = """
[pool]
source = "{data}/instruct_pool.parquet"
limit = {pool}
[target]
source = [{targets}]
split = "validation"
limit = {each}
[language_model]
model = "builtin"
[influence]
function = "{function}"
label_fraction = 0.05
[estimator]
architecture = "auto"
candidates = ["kernel", "two-tower", "factor", "ridge", "knn", "mlp", "mlp-paper"]
[sweep]
rows = {rows}
columns = {columns}
label_fractions = [0.05]
architectures = ["constant"]
seeds = 1
"""
WORDS = 384
# Principal coordinates that the learnable matrix is made of.
AXES = 4


def matrix(
    folder: Path, data: Path, function: str, rows: int, columns: int
) -> tuple[Material, Corner, dict[int, str]]:
    """Exact values and features, computed or found in `folder`; the corner; each row content's source."""
    targets = ", ".join(f'"{data}/instruct_target_{name}.parquet"' for name in TARGETS)
    each = -(-columns // len(TARGETS))
    text = CONFIG.format(
        data=data, pool=rows, targets=targets, each=each, function=function, rows=rows, columns=columns
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{function}.toml").write_text(text, encoding="utf-8")
    config = load_config(folder / f"{function}.toml")
    reporter.mode = "quiet"
    study_estimators(config, "figures", folder / "ws")
    asked, ws = study_config(config), Workspace(folder / "ws")
    keys = keys_of(asked)
    inputs = read_inputs(asked)
    refs = [
        store_dataset(
            ws,
            found.examples,
            dataset=found.name,
            role=found.role,
            block_rows=asked.shards.columns if found.role == "target" else asked.shards.rows,
            fingerprint=found.fingerprint,
        )
        for found in inputs
    ]
    problem = Problem.load(ws, asked, keys, refs)
    if needs_state(asked):
        problem = Problem.load(ws, asked, keys.with_state(plan_state(problem).key), refs)
    corner = Corner.of(problem)
    pool = identify(inputs[0].examples, inputs[0].name, "pool")
    sources = dict(zip(pool["content_id"].to_pylist(), (e.source for e in inputs[0].examples), strict=True))
    return material_of(corner), corner, sources


def ratios(material: Material, u: float, draws: int) -> None:
    """Print quality of every estimator on pairs of unseen rows and unseen targets; x: Spearman over that of
    the gradient proxy, the best baseline that needs no label (the published network's is below zero)."""
    features, exact = material.features, material.exact
    print(
        f"{'':10}" + "".join(f"{n:>15}" for n in ("R2", "Spearman", "per target", "top 10 % rows")) + "     x"
    )
    table: dict[str, dict[str, list[float]]] = {}
    for name in NAMES:
        table[name] = {m: [] for m in SHOWN}
        for seed in range(draws):
            labelled = draw("block", *exact.shape, u, seed)
            for row in evaluate_fit(features, exact, labelled, make(name), seed=seed):
                if row.quadrant == "Q4" and row.metric in SHOWN and row.value is not None:
                    table[name][row.metric].append(row.value)
    proxy = np.mean(table["proxy"]["spearman"])
    for name, found in table.items():
        times = f"{np.mean(found['spearman']) / proxy:6.2f}" if found["spearman"] else f"{'-':>6}"
        print(f"{name:10}" + "".join(f"{spread(found[m]):>15}" for m in SHOWN) + times)


def subsets(material: Material, u: float, draws: int) -> None:
    """Print the share of the exact-over-random gain that 5 % of the rows reach."""
    features, exact = material.features, material.exact
    for name in ("mlp-paper", "proxy", "kernel"):
        shares: dict[str, list[float]] = {"top-k": [], "fl": []}
        for seed in range(draws):
            i, j = draw("block", *exact.shape, u, seed)
            known = np.zeros(exact.shape, bool)
            known[i, j] = True
            predicted = fit_and_predict(features, exact, (i, j), make(name), seed=seed).values
            for rule, found in shares.items():
                share, _ = selection_share(exact, predicted, rule, 0.05, known)
                found.append(np.nan if share is None else share)
        print(f"{name:10}  top-k {spread(shares['top-k'])}   facility location {spread(shares['fl'])}")


def encoders(material: Material, corner: Corner, u: float, draws: int) -> None:
    """Print what stands and falls with the embedding: the kernel on embeddings alone and on everything."""
    f = material.features
    words = {
        "built-in encoder": None,
        "hashed words": [
            _hashed(corner.texts(ids, side=side))
            for ids, side in ((corner.sorted_rows, "row"), (corner.sorted_columns, "column"))
        ],
    }
    for name, vectors in words.items():
        own = f if vectors is None else _with(f, *vectors)
        alone = own.only([EMBEDDING, COSINE])
        for told, given in (("embedding alone", alone), ("all features", own)):
            found: dict[str, list[float]] = {m: [] for m in SHOWN}
            for seed in range(draws):
                labelled = draw("block", *material.exact.shape, u, seed)
                for row in evaluate_fit(given, material.exact, labelled, make("kernel"), seed=seed):
                    if row.quadrant == "Q4" and row.metric in found and row.value is not None:
                        found[row.metric].append(row.value)
            print(f"{name:17} {told:16}" + "".join(f"{spread(found[m]):>15}" for m in SHOWN))


def _hashed(texts: Any) -> np.ndarray:
    """Counts of words by hash [n, 384], L2-normalised: an embedding that no model made."""
    out = np.zeros((len(texts.prompts), WORDS), np.float32)
    for k, (prompt, response) in enumerate(zip(texts.prompts, texts.responses, strict=True)):
        for word, n in Counter(f"{prompt} {response}".lower().split()).items():
            h = zlib.crc32(word.encode())
            out[k, h % WORDS] += (1 if h & (1 << 20) else -1) * np.sqrt(n)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


def _with(f: Features, rows: np.ndarray, columns: np.ndarray) -> Features:
    """The features with other embeddings, and no response embeddings."""
    gone = (RESPONSE, RESPONSE_COSINE)
    side_r, side_c = (
        {name: x for name, x in groups.items() if name not in gone} | {EMBEDDING: v}
        for groups, v in ((f.rows, rows), (f.columns, columns))
    )
    pairs = {name: p for name, p in f.pairs.items() if name not in gone}
    return replace(f, rows=side_r, columns=side_c, pairs=pairs | {COSINE: Cosine.of(rows, columns)})


def new_domain(material: Material, sources: np.ndarray, u: float, draws: int) -> None:
    """Print how an estimator, frozen before the rows of one source came, does on them beside the others; once
    as they are, once with influence turned round on the new rows (wrong on purpose)."""
    names, counts = np.unique(sources, return_counts=True)
    for name in names[np.argsort(-counts)]:
        new = sources == name
        if new.sum() < 30:
            continue
        for told, sign in (("as it is", 1), ("turned round", -1)):
            exact = np.where(new[:, None], sign * material.exact, material.exact)
            found = [_frozen(material.features, exact, new, u, seed) for seed in range(draws)]
            skill = spread([f.skill for f in found if f.skill is not None])
            ratio = spread([f.error_new / f.error_known for f in found if f.error_new and f.error_known])
            print(
                f"{name:11} {told:12} {new.sum():4} rows   error new / known {ratio}   skill {skill}   "
                f"caught {sum(f.worse for f in found)} of {draws}"
            )


def _frozen(f: Features, exact: np.ndarray, new: np.ndarray, u: float, seed: int) -> Drift:
    old = np.flatnonzero(~new)
    i, j = draw("block", len(old), exact.shape[1], u, seed)
    model = make("kernel").fit(f.take(old), i, j, exact[old][i, j], seed=seed)
    rng = np.random.default_rng(seed)
    r, c = (rng.integers(0, n, 300) for n in exact.shape)
    return drift(exact[r, c], model.predict_pairs(f, r, c), new[r], float(exact[old][i, j].mean()))


def gate(material: Material, runs: int = 20) -> None:
    """Print how often the gate trusts, calls weak or refuses: noise, shuffled labels, a learnable matrix."""
    f, exact = material.features, material.exact
    x, y = (_axes(side[EMBEDDING]) for side in (f.rows, f.columns))
    verdicts: dict[str, Counter[str]] = {n: Counter() for n in ("noise", "shuffled labels", "learnable")}
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        A, B = rng.normal(size=(2, AXES, 4))
        signal = (x @ A) @ (y @ B).T
        signal /= signal.std()
        noise = rng.normal(size=exact.shape)
        matrices = {"noise": noise, "shuffled labels": exact, "learnable": signal + 0.5 * noise}
        i, j = draw("block", *exact.shape, 0.2, seed)
        for name, Z in matrices.items():
            z = Z[i, j].astype(np.float64)
            if name == "shuffled labels":
                z = rng.permutation(z)
            model = make("kernel").fit(f, i, j, z, seed=seed)
            known = np.zeros(Z.shape, bool)
            known[i, j] = True
            r, c = (a[:300] for a in rng.permutation(np.argwhere(~known)).T)
            predictions = {"kernel": model.predict_pairs(f, r, c)}
            for cheap in ("constant", "means", "cosine", "proxy", "length"):
                b = make(cheap).fit(f, i, j, z, seed=seed)
                predictions[b.name] = b.predict_pairs(f, r, c)
            rivals = [p for p in predictions if p != "kernel"]
            found = judge(Z[r, c], predictions, estimator="kernel", baselines=rivals, columns=c, seed=seed)
            verdicts[name][found.level] += 1
    for name, counts in verdicts.items():
        print(f"{name:16} " + ", ".join(f"{level} {n}" for level, n in counts.most_common()))


def _axes(x: np.ndarray) -> np.ndarray:
    """The first principal coordinates of embeddings, [n, AXES], each of variance 1."""
    centred = np.asarray(x, np.float64) - x.mean(axis=0)
    U, _, _ = np.linalg.svd(centred, full_matrices=False)
    return U[:, :AXES] * np.sqrt(len(x))


def everything(material: Material) -> None:
    """Print seconds of a choice among all learned candidates and cheap baselines, 98,000 labels."""
    f, exact = material.features, material.exact
    for design, i, j in _many(exact.shape):
        start = time.perf_counter()
        makers: dict[str, Callable[[], Any]] = {n: partial(make, n) for n in NAMES}
        _, choice = choose(
            f, i, j, exact[i, j], candidates=makers, rule="top-k", share=0.05, audit=None, seed=0
        )
        print(f"{design:9} {len(i):,} labels: {time.perf_counter() - start:.1f} s, winner {choice.winner}")


def _many(shape: tuple[int, int]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    n = min(100_000, int(0.9 * shape[0] * shape[1]))
    flat = np.sort(np.random.default_rng(0).permutation(shape[0] * shape[1])[:n])
    i, j = np.divmod(flat, shape[1])
    rows = n // shape[1]
    block = np.repeat(np.arange(rows), shape[1]), np.tile(np.arange(shape[1]), rows)
    return [("scattered", i, j), ("block", *block)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=700)
    parser.add_argument("--columns", type=int, default=140)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--workspace", type=Path)
    args = parser.parse_args()
    print(f"{machine()}; {args.draws} label draws, mean ± standard deviation")
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.workspace or Path(scratch)
        start = time.perf_counter()
        material, corner, sources = matrix(folder, args.folder.resolve(), "less", args.rows, args.columns)
        shape = f"{material.exact.shape[0]} x {material.exact.shape[1]}"
        print(
            f"exact LESS and features of {shape} with the built-in model: {time.perf_counter() - start:.0f} s"
        )
        for u in (0.05, 0.1):
            print(f"\nLESS, block of u = {u}, Q4; x: Spearman over that of the proxy")
            ratios(material, u, args.draws)
        print("\nLESS, u = 0.1, 5 % selected: share of the gain of exact over random selection")
        subsets(material, 0.1, args.draws)
        print("\nWhat the embedding contributes: kernel, u = 0.1, Q4")
        encoders(material, corner, 0.1, args.draws)
        print("\nA source that came after the labels, estimator frozen: kernel, u = 0.2, 300 audit pairs")
        came = np.array([sources[c] or "" for c in corner.sorted_rows.tolist()])
        new_domain(material, came, 0.2, args.draws)
        print("\nThe gate over 20 runs: kernel, u = 0.2, 300 audit pairs")
        gate(material)
        print("\nChoice among all candidates")
        everything(material)
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    sys.exit(main())
