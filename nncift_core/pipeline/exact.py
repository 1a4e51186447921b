"""Exact influence on the labels and on scattered audit pairs, resumable chunk by chunk.

Chunks are cut from the label design, not from what is missing, so a resumed run batches as an
unbroken one does and its values are bit-equal.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.labels import (
    Str,
    block_of,
    pairs_isin,
    positions,
    quadrant,
    scattered_pairs,
)
from nncift_core.influence.contract import Float32, InfluenceFunction, Rows, Side
from nncift_core.pipeline.audit import audit_of
from nncift_core.pipeline.audit import audit_size as audit_size
from nncift_core.pipeline.exact_shards import ExactShard as ExactShard
from nncift_core.pipeline.exact_shards import exact_values as exact_values
from nncift_core.pipeline.exact_shards import pair_shard, pairs_of, pieces, stored_values, tile_shard
from nncift_core.pipeline.labelling import label_costs, planned_labels
from nncift_core.pipeline.problem import Problem
from nncift_core.pipeline.state import state_list
from nncift_core.store.designs import Drawn, LabelCost, StoredDesign, find_or_make, load_design
from nncift_core.store.segments import rectangles

Int64 = npt.NDArray[np.int64]
Progress = Callable[[int], None]

# Pairs between two looks at what others have stored; cheap pairs are not worth the look.
CHUNK_PAIRS = 256
CHEAP_CHUNK_PAIRS = 1 << 18
FLUSH_SECONDS = 15.0
AUDIT_SHARD = 2048
LABEL_SHARD = 4096


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

    def labels(self) -> tuple[Int64, Int64]:
        """All labelled pairs as content ids (rows [k], columns [k]), in the order of `exact_values`."""
        return pairs_of([s for s in self.shards if s.purpose == "label"])


def plan_exact(problem: Problem) -> ExactPlan:
    """Draw (or keep) the labels, draw the audit, and find what is missing by anti-join."""
    store = problem.exact_store
    store.refresh()
    design = _design(problem)
    shards = _pair_labels(problem, design) if design.kind == "scattered" else _tile_labels(problem, design)
    audit_rows, audit_columns = audit_of(problem, design, sum(s.pairs for s in shards))
    for start in range(0, len(audit_rows), AUDIT_SHARD):
        r, k = audit_rows[start : start + AUDIT_SHARD], audit_columns[start : start + AUDIT_SHARD]
        shards.append(pair_shard(store, f"audit {start // AUDIT_SHARD}", r, k, "audit"))
    return ExactPlan(design, audit_rows, audit_columns, tuple(shards))


def _design(problem: Problem) -> StoredDesign:
    """The design that a refresh goes on from, else the one that fits the data best, or a new one."""
    if problem.refresh is not None and not problem.all_exact:
        return load_design(problem.ws, problem.family(), problem.refresh.design)
    growth = 0.0 if problem.all_exact else problem.config.estimator.refit_growth
    return find_or_make(
        problem.ws,
        problem.family(),
        problem.rows,
        problem.columns,
        growth,
        lambda rows, columns: draw_labels(problem, rows, columns),
        problem.valued,
    )


def draw_labels(problem: Problem, rows: Int64, columns: Int64) -> Drawn:
    """A fresh label design of the configured kind out of `rows` and `columns` (content ids)."""
    c = problem.config
    costs = label_costs(c, rows, columns, lambda ids, side: problem.texts(ids, side=side))
    n = planned_labels(c, len(rows), len(columns), costs)
    cost = LabelCost(n.cost, n.block_cost, n.unit)
    if n.kind == "scattered":
        r, k = scattered_pairs(rows, columns, n.pairs, c.seed)
        return Drawn(np.unique(r), np.unique(k), n.kind, r, k, cost)
    block = block_of(rows, columns, n.rows, n.columns, c.seed)
    return Drawn(block.rows, block.columns, n.kind, cost=cost)


def quadrant_of_pairs(design: StoredDesign, rows: Int64, columns: Int64) -> Str:
    """Where each pair (rows[k], columns[k]) lies: "Q1".."Q4" by its row and column; of a scattered design,
    which has no quadrants, "labels" or "unseen"."""
    if design.kind == "scattered":
        labelled = pairs_isin(rows, columns, design.pair_rows, design.pair_columns)
        return np.where(labelled, "labels", "unseen")
    return quadrant(np.isin(rows, design.label_rows), np.isin(columns, design.label_columns))


def _tile_labels(problem: Problem, design: StoredDesign) -> list[ExactShard]:
    """Labelled rows of every block against the labelled columns."""
    columns = problem.columns[np.isin(problem.columns, design.label_columns)]
    labelled = np.isin(problem.rows, design.label_rows)
    ends = np.cumsum([len(contents) for contents in problem.row_shards])[:-1]
    shards = []
    for block, (contents, here) in enumerate(zip(problem.row_shards, np.split(labelled, ends), strict=True)):
        rows = contents[here]
        if len(rows):
            shards.append(tile_shard(problem.exact_store, f"Q1 block {block}", rows, columns, "label"))
    return shards


def _pair_labels(problem: Problem, design: StoredDesign) -> list[ExactShard]:
    """Scattered labels, block by block, the pairs of a row next to each other in one shard."""
    rows, columns = design.pairs_among(problem.rows, problem.columns)
    i = positions(problem.rows, rows)
    order = np.lexsort((positions(problem.columns, columns), i))
    rows, columns = rows[order], columns[order]
    ends = np.cumsum([0, *map(len, problem.row_shards)])
    shards: list[ExactShard] = []
    for low, high in pairwise(np.searchsorted(i[order], ends).tolist()):
        for piece in pieces(rows[low:high], LABEL_SHARD):
            r, k = rows[low:high][piece], columns[low:high][piece]
            shards.append(pair_shard(problem.exact_store, f"labels {len(shards)}", r, k, "label"))
    return shards


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
        self.parents = (*problem.valued, *state_list(problem))
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
        done: list[tuple[Int64, Int64, Float32]] = []
        computed, since = 0, time.monotonic()
        # Features are loaded pair by pair, so chunks stay small whatever a pair costs; without them, the
        # pairs of one row stay together and share what their prompts begin with.
        alike = np.arange(len(rows)) if "features" in self.function.needs else rows
        for piece in pieces(alike, CHUNK_PAIRS):
            r, k = rows[piece], columns[piece]
            unknown = np.isnan(stored_values(self.store, r, k))
            r, k = r[unknown], k[unknown]
            if len(r):
                done.append((r, k, self._pairs(self._texts(r, "row"), self._texts(k, "column"))))
                computed += len(r)
            if time.monotonic() - since > FLUSH_SECONDS:
                self._write_pairs(done)
                done, since = [], time.monotonic()
        self._write_pairs(done)
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

    def _write_pairs(self, done: list[tuple[Int64, Int64, Float32]]) -> None:
        if done:
            rows, columns = (np.concatenate([d[side] for d in done]) for side in (0, 1))
            values = np.concatenate([d[2] for d in done])
            self.store.write_pairs(
                rows, columns, values, producer="exact-influence", parents=self.parents, counts=self._counts()
            )

    def _counts(self) -> dict[str, int]:
        """What the function counted since the last write (truncated sequences), for the manifest."""
        now = Counter(self.function.counters)
        grown = now - self.counted
        self.counted = now
        return dict(grown)
