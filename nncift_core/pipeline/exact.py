"""Exact influence on the labelled block (Q1) and on scattered audit pairs, resumable chunk by chunk.

Chunks are cut from the label design, not from what is missing, so a resumed run batches as an
unbroken one does and its values are bit-equal.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.config import Config
from nncift_core.estimator.labels import BlockDesign, audit_pairs, block_design
from nncift_core.influence.contract import Float32, InfluenceFunction, Rows, Side
from nncift_core.pipeline.problem import Problem
from nncift_core.store.designs import StoredDesign, find_or_make
from nncift_core.store.segments import SegmentStore, rectangles

Int64 = npt.NDArray[np.int64]
Progress = Callable[[int], None]

# Pairs between two looks at what others have stored; cheap pairs are not worth the look.
CHUNK_PAIRS = 256
CHEAP_CHUNK_PAIRS = 1 << 18
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


def audit_size(config: Config, n_rows: int, n_columns: int, labelled: int) -> int:
    """Audit pairs of a run; of a pointwise function at most half of what is not labelled, for pairs are rows
    there, and an audit of all of them would leave nothing to estimate."""
    left = n_rows * n_columns - labelled
    return min(config.influence.audit_pairs, left // 2 if config.pointwise else left)


def plan_exact(problem: Problem) -> ExactPlan:
    """Draw (or keep) the labels, draw the audit, and find what is missing by anti-join."""
    c, store = problem.config, problem.exact_store
    store.refresh()

    def draw(rows: Int64, columns: Int64) -> tuple[Int64, Int64]:
        d = block_design(rows, columns, c.influence.label_fraction, c.seed)
        return d.rows, d.columns

    growth = 0.0 if problem.all_exact else c.estimator.refit_growth
    parents = problem.valued
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
    rows, columns = np.isin(problem.rows, design.label_rows), np.isin(problem.columns, design.label_columns)
    labelled = int(rows.sum() * columns.sum())
    n = 0 if problem.all_exact else audit_size(problem.config, len(rows), len(columns), labelled)
    if not n:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    labels = BlockDesign(rows=design.label_rows, columns=design.label_columns)
    return audit_pairs(problem.rows, problem.columns, labels, n, problem.config.seed)


def compute_exact(
    problem: Problem, function: InfluenceFunction, shard: ExactShard, progress: Progress | None = None
) -> int:
    """Compute what `shard` lacks and store it; returns the number of computed pairs."""
    problem.exact_store.refresh()
    work = _Work(problem, function, progress)
    rows, columns = np.array(shard.rows, np.int64), np.array(shard.columns, np.int64)
    return work.block(rows, columns) if shard.layout == "tile" else work.scattered(rows, columns)


class _Work:
    """Computes the missing pairs of a shard chunk by chunk; whole chunks are written together."""

    def __init__(self, problem: Problem, function: InfluenceFunction, progress: Progress | None) -> None:
        self.problem, self.function, self.progress = problem, function, progress
        self.store = problem.exact_store
        self.parents = problem.valued
        self.counted = Counter(function.counters)
        self.pointwise = function.kind == "pointwise"
        costly = self.pointwise or function.cost.per_pair > 0
        self.chunk = CHUNK_PAIRS if costly else CHEAP_CHUNK_PAIRS

    def block(self, rows: Int64, columns: Int64) -> int:
        """Rows [r] x columns [c], in chunks of whole rows; returns computed pairs."""
        pool, targets = self._texts(rows, "row"), self._texts(columns, "column")
        done: list[tuple[Int64, Float32]] = []
        computed, since = 0, time.monotonic()
        step = max(1, self.chunk // len(columns))
        for start in range(0, len(rows), step):
            chunk = np.arange(start, min(start + step, len(rows)))
            missing = ~self.store.coverage(rows[chunk], columns)
            if missing.all():
                done.append((rows[chunk], self._tile(pool.take(chunk), targets)))
            elif missing.any():
                for r, k in rectangles(missing):
                    values = self._tile(pool.take(chunk[r]), targets.take(k))
                    self._write([(rows[chunk][r], values)], columns[k])
            computed += int(missing.sum())
            if time.monotonic() - since > FLUSH_SECONDS:
                self._write(done, columns)
                done, since = [], time.monotonic()
        self._write(done, columns)
        return computed

    def scattered(self, rows: Int64, columns: Int64) -> int:
        """Pairs (rows[k], columns[k]), in chunks; returns computed pairs."""
        computed = 0
        # Features of pairs are loaded pair by pair, so chunks stay small whatever a pair costs.
        for start in range(0, len(rows), CHUNK_PAIRS):
            r, k = rows[start : start + CHUNK_PAIRS], columns[start : start + CHUNK_PAIRS]
            unknown = np.isnan(self.store.lookup(r, k))
            r, k = r[unknown], k[unknown]
            if len(r):
                values = self._pairs(self._texts(r, "row"), self._texts(k, "column"))
                self.store.write_pairs(
                    r, k, values, producer="exact-influence", parents=self.parents, counts=self._counts()
                )
                computed += len(r)
        return computed

    def _texts(self, content_ids: Int64, side: Side) -> Rows:
        if self.pointwise and side == "column":
            nothing = ("",) * len(content_ids)
            return Rows(content_ids, nothing, nothing)
        return self.problem.texts(content_ids, self.function.needs, side)

    def _tile(self, rows: Rows, columns: Rows) -> Float32:
        if self.pointwise:
            return self.function.values(rows, self.progress)[:, None]
        return self.function.tile(rows, columns, self.progress)

    def _pairs(self, rows: Rows, columns: Rows) -> Float32:
        if self.pointwise:
            return self.function.values(rows, self.progress)
        return self.function.pairs(rows, columns, self.progress)

    def _write(self, done: list[tuple[Int64, Float32]], columns: Int64) -> None:
        if done:
            rows, values = np.concatenate([r for r, _ in done]), np.concatenate([v for _, v in done])
            self.store.write_tile(
                rows, columns, values, producer="exact-influence", parents=self.parents, counts=self._counts()
            )

    def _counts(self) -> dict[str, int]:
        """What the function counted since the last write (truncated sequences), for the manifest."""
        now = Counter(self.function.counters)
        grown = now - self.counted
        self.counted = now
        return dict(grown)


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
