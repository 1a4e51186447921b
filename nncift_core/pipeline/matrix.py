"""The completed matrix of a job: stored tiles, or estimates made while they are read (`store_matrix`)."""

from __future__ import annotations

from nncift_core.estimator.contract import Estimator, Float32, Int64
from nncift_core.pipeline.estimate import load_estimator, read_by
from nncift_core.pipeline.estimator_features import MatrixFeatures
from nncift_core.pipeline.problem import Problem
from nncift_core.store.matrix import MatrixReader
from nncift_core.store.references import EstimatorRef


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
    return MatrixReader(problem.exact_store, estimates, blocks, wanted, predict)
