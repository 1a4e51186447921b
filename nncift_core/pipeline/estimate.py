"""Fitting the InfluenceNetwork on the labels and estimating every tile that lacks values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.errors import RunError
from nncift_core.estimator import InfluenceNetwork, fit
from nncift_core.estimator.training import FIT_VERSION
from nncift_core.hashing import digest
from nncift_core.pipeline.exact import ExactPlan, exact_values
from nncift_core.pipeline.problem import Problem
from nncift_core.store.files import is_intact, publish, read_manifest, verify
from nncift_core.store.references import EstimatorRef
from nncift_core.store.segments import rectangles

Int64 = npt.NDArray[np.int64]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class EstimateShard:
    """One block of rows against all columns; missing = pairs without an estimate."""

    name: str
    rows: tuple[int, ...]
    missing: int


def estimator_key(problem: Problem, plan: ExactPlan) -> str:
    """Identity of the fit: function, encoder, labels, architecture, seed, algorithm version."""
    c = problem.config
    return digest(
        {
            "function": problem.keys.values,
            "encoder": problem.keys.encoders if problem.keys.column_encoder else problem.keys.encoder,
            "design": plan.design.ref.key,
            "architecture": c.architecture(),
            "hidden": c.estimator.hidden,
            "seed": c.seed,
            "version": FIT_VERSION,
        }
    )


def find_estimator(problem: Problem, key: str) -> EstimatorRef | None:
    """The fitted estimator under `key`, when it is stored and intact."""
    path = problem.ws.network_file(key)
    if not is_intact(path):
        return None
    manifest = read_manifest(path)
    return EstimatorRef(**manifest.meta["reference"]) if manifest else None


def train(
    problem: Problem, plan: ExactPlan, key: str, progress: Callable[[int, int], None] | None = None
) -> EstimatorRef:
    """Fit `IN_theta(emb(i) ++ emb(j)) -> influence(i, j)` on Q1 and store it."""
    store = problem.exact_store
    rows, columns, values = exact_values(store, plan.shards, "tile")
    if np.isnan(values).any():
        raise RunError(f"{int(np.isnan(values).sum())} labels are missing; run again to compute them")
    row_ids, row_index = np.unique(rows, return_inverse=True)
    column_ids, column_index = np.unique(columns, return_inverse=True)
    network, report = fit(
        problem.embeddings(row_ids, "row"),
        problem.embeddings(column_ids, "column"),
        row_index,
        column_index,
        values,
        architecture=problem.config.architecture(),
        hidden=problem.config.estimator.hidden,
        seed=problem.config.seed,
        progress=progress,
    )
    path = problem.ws.network_file(key)
    ref = EstimatorRef(
        key=key,
        path=problem.ws.relative(path),
        architecture=problem.config.architecture(),
        labels=report.n_labels,
        epochs=report.epochs,
        train_mse=report.train_mse,
        validation_mse=report.validation_mse,
    )
    publish(
        problem.ws.root,
        path,
        network.save,
        kind="estimator",
        key=key,
        rows=len(values),
        producer="train-influence-network",
        parents=(plan.design.ref.path, *store.files(row_ids), *problem.vectors("row").files(row_ids)),
        meta={"reference": ref.model_dump(), "fit": asdict(report)},
    )
    return ref


def load_estimator(problem: Problem, ref: EstimatorRef) -> InfluenceNetwork:
    """The network of `ref`; raises IntegrityError when its file is damaged."""
    path = problem.ws.root / ref.path
    verify(path)
    return InfluenceNetwork.load(path)


def plan_estimate(problem: Problem, ref: EstimatorRef) -> list[EstimateShard]:
    """One shard per row block, with the number of pairs that have no estimate yet."""
    store = problem.estimate_store(ref.key)
    store.refresh()
    return [
        EstimateShard(f"block {n}", tuple(rows.tolist()), int((~store.coverage(rows, problem.columns)).sum()))
        for n, rows in enumerate(problem.row_shards)
    ]


def estimate_shard(
    problem: Problem, ref: EstimatorRef, shard: EstimateShard, progress: Progress | None = None
) -> int:
    """Predict the missing tiles of one row block, column block by column block; returns computed pairs."""
    store = problem.estimate_store(ref.key)
    network = load_estimator(problem, ref)
    rows = np.array(shard.rows, np.int64)
    row_vectors = problem.embeddings(rows, "row")
    computed = 0
    for columns in problem.column_shards:
        missing = ~store.coverage(rows, columns)
        vectors = problem.embeddings(columns, "column") if missing.any() else None
        for r, k in rectangles(missing):
            assert vectors is not None
            values = network.predict(row_vectors[r], vectors[k])
            store.write_tile(rows[r], columns[k], values, producer="estimate-influence", parents=(ref.path,))
            computed += values.size
            if progress:
                progress(values.size)
    return computed
