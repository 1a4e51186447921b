"""What a rehearsal computes of a stage and makes up for the rest: vectors, exact values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from nncift_core.forecast.measuring import Timed, mixed_groups, time_parts
from nncift_core.hashing import hash_rank
from nncift_core.pipeline.exact import CHUNK_PAIRS
from nncift_core.pipeline.exact_shards import ExactShard, pieces, stored_values
from nncift_core.pipeline.problem import Problem
from nncift_core.store.segments import rectangles
from nncift_core.store.vectors import VectorStore

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def made_up(found: Float32, n: int, seed: int) -> Float32:
    """n vectors [n, d] like those `found` [m, d]: one of them each, and noise of a third of its length."""
    rng = np.random.default_rng(seed)
    of = found[rng.integers(0, len(found), n)]
    length = np.linalg.norm(of, axis=1, keepdims=True)
    noise = rng.standard_normal(of.shape, np.float32) * (length / (3 * max(1.0, of.shape[1] ** 0.5)))
    mixed = of + noise
    out: Float32 = mixed * (length / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12))
    return out.astype(np.float32)


def timed_vectors(
    store: VectorStore,
    ids: Int64,
    lengths: Float64,
    compute: Callable[[Int64], Float32],
    group: int,
    piece: int,
    budget: float,
) -> Timed:
    """Compute vectors of some groups of texts, make up the others, and store all as a run does."""
    groups = mixed_groups(lengths, group)
    found: list[tuple[Int64, Float32]] = []
    timed = time_parts(
        [float(lengths[g].sum()) for g in groups],
        lambda k: found.append((groups[k], compute(groups[k]))),
        budget,
        least=1,
    )
    known = np.concatenate([v for _, v in found])
    everything = made_up(known, len(ids), 0)
    for at, vectors in found:
        everything[at] = vectors
    for start in range(0, len(ids), piece):
        store.write(ids[start : start + piece], everything[start : start + piece])
    return timed


def units_of(shard: ExactShard) -> list[ExactShard]:
    """A shard in the chunks in which it is computed."""
    rows, columns = np.array(shard.rows, np.int64), np.array(shard.columns, np.int64)
    found = []
    if shard.layout == "tile":
        step = max(1, CHUNK_PAIRS // len(columns))
        for start in range(0, len(rows), step):
            part = shard.rows[start : start + step]
            n = len(part) * len(columns)
            found.append(replace(shard, rows=part, pairs=n, missing=n))
        return found
    for piece in pieces(rows, CHUNK_PAIRS):
        n = len(rows[piece])
        found.append(replace(shard, rows=shard.rows[piece], columns=shard.columns[piece], pairs=n, missing=n))
    return found


def fill(problem: Problem, shards: Sequence[ExactShard]) -> None:
    """Make up the values that no chunk has computed: like those that are there in mean and spread, with a
    part of each row and column, as influence has."""
    store = problem.exact_store
    store.refresh()
    known = np.concatenate([_known(problem, s) for s in shards]) if shards else np.empty(0, np.float32)
    known = known[~np.isnan(known)]
    mean, spread = (float(known.mean()), float(known.std()) or 1.0) if len(known) else (0.0, 1.0)
    about = {"producer": "exact-influence", "parents": problem.valued}

    def values(rows: Int64, columns: Int64) -> Float32:
        parts = [_normal(rows, "row"), _normal(columns, "column"), _normal(rows, "pair", columns)]
        mixed = 0.7 * parts[0] + 0.4 * parts[1] + 0.6 * parts[2]
        return (mean + spread * mixed).astype(np.float32)

    for s in shards:
        rows, columns = np.array(s.rows, np.int64), np.array(s.columns, np.int64)
        if s.layout == "pairs":
            missing = np.isnan(stored_values(store, rows, columns))
            if missing.any():
                r, k = rows[missing], columns[missing]
                store.write_pairs(r, k, values(r, k), **about)  # type: ignore[arg-type]
            continue
        for at, to in rectangles(~store.coverage(rows, columns)):
            r, k = rows[at], columns[to]
            tile = values(np.repeat(r, len(k)), np.tile(k, len(r))).reshape(len(r), len(k))
            store.write_tile(r, k, tile, **about)  # type: ignore[arg-type]


def _known(problem: Problem, shard: ExactShard) -> Float32:
    rows, columns = np.array(shard.rows, np.int64), np.array(shard.columns, np.int64)
    if shard.layout == "pairs":
        return stored_values(problem.exact_store, rows, columns)
    out = np.full((len(rows), len(columns)), np.nan, np.float32)
    problem.exact_store.fill(rows, columns, out)
    return out.ravel()


def _normal(ids: Int64, salt: str, more: Int64 | None = None) -> Float64:
    """A number of mean 0 and variance 1 for each id [n] (or pair), the same every time."""
    ranks = hash_rank(ids, 0, salt) if more is None else hash_rank(ids, 0, salt, more)
    uniform = ranks.astype(np.float64) / float(1 << 64)
    out: Float64 = (uniform - 0.5) * 12**0.5
    return out
