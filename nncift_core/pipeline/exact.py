"""Exact influence on the labelled block (Q1) and on scattered audit pairs, resumable chunk by chunk.

Chunks are cut from the label design, not from what is missing, so a resumed run batches as an
unbroken one does and its values are bit-equal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.labels import audit_pairs, block_design
from nncift_core.influence.contract import InfluenceFunction
from nncift_core.pipeline.problem import Problem
from nncift_core.store.designs import StoredDesign, find_or_make
from nncift_core.store.segments import SegmentStore, rectangles

Int64 = npt.NDArray[np.int64]
Progress = Callable[[int], None]

CHUNK_PAIRS = 256
FLUSH_SECONDS = 15.0
AUDIT_SHARD = 2048


@dataclass(frozen=True)
class ExactShard:
    """Work of one task: a block's labelled rows against the labelled columns, or some audit pairs."""

    name: str
    layout: str
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    pairs: int
    missing: int


@dataclass(frozen=True)
class ExactPlan:
    """The design, the audit pairs and every shard (finished ones have missing = 0)."""

    design: StoredDesign
    audit_rows: Int64
    audit_columns: Int64
    shards: tuple[ExactShard, ...]

    @property
    def pairs(self) -> int:
        """Exact pairs the run asks for."""
        return sum(s.pairs for s in self.shards)

    @property
    def missing(self) -> int:
        """Those that are not stored yet."""
        return sum(s.missing for s in self.shards)


def label_counts(n_rows: int, n_columns: int, fraction: float) -> tuple[int, int]:
    """Labelled rows and columns of a block design at fraction u (as `block_design` draws them)."""
    ids = [np.arange(n, dtype=np.int64) for n in (n_rows, n_columns)]
    design = block_design(ids[0], ids[1], fraction, 0)
    return len(design.rows), len(design.columns)


def plan_exact(problem: Problem, store: SegmentStore) -> ExactPlan:
    """Draw (or keep) the labels, draw the audit, and find what is missing by anti-join."""
    c = problem.config

    def draw(rows: Int64, columns: Int64) -> tuple[Int64, Int64]:
        d = block_design(rows, columns, c.influence.label_fraction, c.seed)
        return d.rows, d.columns

    growth = 0.0 if problem.all_exact else c.estimator.refit_growth
    parents = tuple(d.ref.path for d in problem.datasets)
    design = find_or_make(problem.ws, problem.family(), problem.rows, problem.columns, growth, draw, parents)
    label_columns = problem.columns[np.isin(problem.columns, design.label_columns)]
    shards = []
    for block, contents in enumerate(problem.row_shards):
        rows = contents[np.isin(contents, design.label_rows)]
        if len(rows):
            missing = int((~store.coverage(rows, label_columns)).sum())
            shards.append(_shard(f"Q1 block {block}", "tile", rows, label_columns, missing))
    audit_rows, audit_columns = _audit(problem, design)
    for start in range(0, len(audit_rows), AUDIT_SHARD):
        r, k = audit_rows[start : start + AUDIT_SHARD], audit_columns[start : start + AUDIT_SHARD]
        missing = int(np.isnan(store.lookup(r, k)).sum())
        shards.append(_shard(f"audit {start // AUDIT_SHARD}", "pairs", r, k, missing))
    return ExactPlan(design, audit_rows, audit_columns, tuple(shards))


def _shard(name: str, layout: str, rows: Int64, columns: Int64, missing: int) -> ExactShard:
    pairs = len(rows) * len(columns) if layout == "tile" else len(rows)
    return ExactShard(name, layout, tuple(rows.tolist()), tuple(columns.tolist()), pairs, missing)


def _audit(problem: Problem, design: StoredDesign) -> tuple[Int64, Int64]:
    n = 0 if problem.all_exact else problem.config.influence.audit_pairs
    if not n:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    from nncift_core.estimator.labels import BlockDesign

    labels = BlockDesign(rows=design.label_rows, columns=design.label_columns)
    return audit_pairs(problem.rows, problem.columns, labels, n, problem.config.seed)


def compute_exact(
    problem: Problem,
    function: InfluenceFunction,
    shard: ExactShard,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Compute what `shard` lacks and store it; returns computed pairs and the function's counters."""
    store = SegmentStore(problem.ws, "exact", problem.keys.function)
    rows, columns = np.array(shard.rows, np.int64), np.array(shard.columns, np.int64)
    before = dict(function.counters)
    if shard.layout == "tile":
        computed = _block(problem, function, store, rows, columns, progress)
    else:
        computed = _scattered(problem, function, store, rows, columns, progress)
    grown = {k: v - before.get(k, 0) for k, v in function.counters.items()}
    return {"computed": computed, **{k: v for k, v in grown.items() if v}}


class _Writer:
    """Gathers finished whole chunks and writes them as one tile every FLUSH_SECONDS."""

    def __init__(self, store: SegmentStore, columns: Int64, parents: tuple[str, ...]) -> None:
        self.store, self.columns, self.parents = store, columns, parents
        self.rows: list[Int64] = []
        self.values: list[npt.NDArray[np.float32]] = []
        self.since = time.monotonic()

    def add(self, rows: Int64, values: npt.NDArray[np.float32]) -> None:
        self.rows.append(rows)
        self.values.append(values)
        if time.monotonic() - self.since > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            rows, values = np.concatenate(self.rows), np.concatenate(self.values)
            self.store.write_tile(
                rows, self.columns, values, producer="exact-influence", parents=self.parents
            )
        self.rows, self.values, self.since = [], [], time.monotonic()


def _block(
    problem: Problem,
    function: InfluenceFunction,
    store: SegmentStore,
    rows: Int64,
    columns: Int64,
    progress: Progress | None,
) -> int:
    embeddings = "embedding" in function.needs
    targets = problem.texts(columns, embeddings=embeddings)
    parents = tuple(d.ref.path for d in problem.datasets)
    writer = _Writer(store, columns, parents)
    step, computed = max(1, CHUNK_PAIRS // len(columns)), 0
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        missing = ~store.coverage(chunk, columns)
        if not missing.any():
            continue
        texts = problem.texts(chunk, embeddings=embeddings)
        if missing.all():
            writer.add(chunk, function.tile(texts, targets, progress))
        else:
            for r, k in rectangles(missing):
                values = function.tile(texts.take(r), targets.take(k), progress)
                store.write_tile(chunk[r], columns[k], values, producer="exact-influence", parents=parents)
        computed += int(missing.sum())
    writer.flush()
    return computed


def _scattered(
    problem: Problem,
    function: InfluenceFunction,
    store: SegmentStore,
    rows: Int64,
    columns: Int64,
    progress: Progress | None,
) -> int:
    embeddings = "embedding" in function.needs
    parents = tuple(d.ref.path for d in problem.datasets)
    computed = 0
    for start in range(0, len(rows), CHUNK_PAIRS):
        r, k = rows[start : start + CHUNK_PAIRS], columns[start : start + CHUNK_PAIRS]
        unknown = np.isnan(store.lookup(r, k))
        r, k = r[unknown], k[unknown]
        if not len(r):
            continue
        values = function.pairs(
            problem.texts(r, embeddings=embeddings), problem.texts(k, embeddings=embeddings), progress
        )
        store.write_pairs(r, k, values, producer="exact-influence", parents=parents)
        computed += len(r)
    return computed


def exact_values(
    store: SegmentStore, shards: Sequence[ExactShard], layout: str
) -> tuple[Int64, Int64, npt.NDArray[np.float32]]:
    """Stored values of all shards of one layout as pairs: rows [k], columns [k], values [k]."""
    parts: list[tuple[Int64, Int64]] = []
    for s in shards:
        if s.layout != layout:
            continue
        r, c = np.array(s.rows, np.int64), np.array(s.columns, np.int64)
        parts.append((np.repeat(r, len(c)), np.tile(c, len(r))) if layout == "tile" else (r, c))
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    rows, columns = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
    return rows, columns, _values(store, shards, layout, rows, columns)


def _values(
    store: SegmentStore, shards: Sequence[ExactShard], layout: str, rows: Int64, columns: Int64
) -> npt.NDArray[np.float32]:
    if layout == "pairs":
        return store.lookup(rows, columns)
    blocks = []
    for s in shards:
        if s.layout == "tile":
            out = np.full((len(s.rows), len(s.columns)), np.nan, np.float32)
            store.fill(np.array(s.rows, np.int64), np.array(s.columns, np.int64), out)
            blocks.append(out.ravel())
    return np.concatenate(blocks)
