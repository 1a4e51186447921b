"""The completed matrix of a job: stored tiles, or estimates made while they are read (`store_matrix`)."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.contract import Estimator, Float32, Int64
from nncift_core.pipeline.estimate import load_estimator, read_by
from nncift_core.pipeline.estimator_features import MatrixFeatures
from nncift_core.pipeline.exact import ExactPlan, plan_exact
from nncift_core.pipeline.problem import Problem
from nncift_core.selection import NonNegative
from nncift_core.selection.kernels import TileRows
from nncift_core.store.matrix import MatrixReader
from nncift_core.store.references import EstimatorRef
from nncift_core.store.segments import SegmentStore


class OnDemand:
    """Estimates of whole rows against fixed columns [N], computed when they are asked for."""

    def __init__(self, problem: Problem, ref: EstimatorRef, columns: Int64) -> None:
        self.problem, self.ref = problem, ref
        self.estimator: Estimator = load_estimator(problem, ref)
        self.features = MatrixFeatures(problem, columns)

    def __call__(self, row_ids: Int64) -> Float32:
        """[r, N]."""
        features = self.features.of(row_ids)
        return self.estimator.predict(read_by(self.problem.config, self.ref.architecture, features))


class OwnValues:
    """Of the stored exact values those that a plan asked for: its labels and its audit pairs."""

    def __init__(self, store: SegmentStore, plan: ExactPlan) -> None:
        self.store = store
        design, self._pairs = plan.design, defaultdict[int, set[int]](set)
        self._block: tuple[Int64, Int64] = (np.empty(0, np.int64), np.empty(0, np.int64))
        pairs = [(plan.audit_rows, plan.audit_columns)]
        if design.kind == "scattered":
            pairs.append((design.pair_rows, design.pair_columns))
        else:
            self._block = (design.label_rows, design.label_columns)
        for rows, columns in pairs:
            for r, c in zip(rows.tolist(), columns.tolist(), strict=True):
                self._pairs[r].add(c)

    def coverage(self, row_ids: Int64, column_ids: Int64) -> npt.NDArray[np.bool_]:
        """Which pairs are known and were asked for, [r, c]."""
        asked = np.outer(np.isin(row_ids, self._block[0]), np.isin(column_ids, self._block[1]))
        place = {c: j for j, c in enumerate(column_ids.tolist())}
        for i, r in enumerate(row_ids.tolist()):
            asked[i, [place[c] for c in self._pairs.get(r, ()) if c in place]] = True
        known: npt.NDArray[np.bool_] = asked & self.store.coverage(row_ids, column_ids)
        return known

    def fill(self, row_ids: Int64, column_ids: Int64, out: Float32) -> None:
        """Write every value that is known and was asked for into `out` [r, c]; the rest stays."""
        found = out.copy()
        self.store.fill(row_ids, column_ids, found)
        here = self.coverage(row_ids, column_ids)
        out[here] = found[here]


def scaled_tiles(reader: MatrixReader, contents: Int64, columns: Int64, scaling: NonNegative) -> TileRows:
    """Influence >= 0 [M, N] of candidates with `contents` [M] on `columns` [N] of the matrix, made when it is
    read; nothing is held in memory."""

    def tile(candidates: Int64, represented: Int64) -> Float32:
        rows, at = np.unique(contents[candidates], return_inverse=True)
        values = reader.block(rows).values[:, columns[represented]]
        # Another batch rounds otherwise, so a value may lie a last bit beyond the extremes; and one that was
        # estimated when these were found may be exact by now.
        np.clip(values, scaling.minimum, scaling.maximum, out=values)
        out: Float32 = scaling.apply(values)[at]
        return out

    return TileRows(tile, (len(contents), len(columns)))


def open_matrix(
    problem: Problem,
    ref: EstimatorRef | None,
    *,
    rows: list[Int64] | None = None,
    columns: Int64 | None = None,
) -> MatrixReader:
    """The completed matrix [row contents, column contents] as a stream of blocks.

    rows: blocks of row contents, all when None; columns: column contents, all when None. With a
    `store_matrix` other than "all", estimates are computed as the blocks are read.
    """
    stored = ref is not None and problem.config.shards.store_matrix == "all"
    estimates = problem.estimate_store(ref.key) if stored and ref is not None else None
    for store in (problem.exact_store, estimates):
        if store is not None:
            store.refresh()
    wanted = problem.columns if columns is None else columns
    predict = OnDemand(problem, ref, wanted) if ref is not None and not stored else None
    blocks = problem.row_shards if rows is None else rows
    exact = problem.exact_store
    own = OwnValues(exact, plan_exact(problem)) if problem.own_values and ref is not None else exact
    return MatrixReader(own, estimates, blocks, wanted, predict)
