"""Estimates against exact values: the fit on Q1, and the audit pairs that no fit has seen."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.estimator import assess, default_baselines, quadrant
from nncift_core.pipeline.estimate import load_estimator
from nncift_core.pipeline.exact import ExactPlan, exact_values
from nncift_core.pipeline.problem import Problem
from nncift_core.store.references import EstimatorRef

Int64 = npt.NDArray[np.int64]


def assess_estimator(problem: Problem, plan: ExactPlan, ref: EstimatorRef) -> list[dict[str, Any]]:
    """Rows of `estimator_quality` (without run_id): the estimator beside every cheap baseline.

    Baselines are fitted on the same labels. Needs at least one audit pair; none gives the Q1 rows only.
    """
    store = problem.exact_store
    labels = exact_values(store, plan.shards, "tile")
    audit = exact_values(store, plan.shards, "pairs")
    rows, columns, truth = (np.concatenate([a, b]) for a, b in zip(labels, audit, strict=True))
    fitted = np.arange(len(rows)) < len(labels[0])
    row_ids, i = np.unique(rows, return_inverse=True)
    column_ids, j = np.unique(columns, return_inverse=True)
    row_vectors = problem.embeddings(row_ids, "row")
    column_vectors = problem.embeddings(column_ids, "column")
    network = load_estimator(problem, ref)
    predictions: dict[str, npt.NDArray[Any]] = {
        ref.architecture: _predict(network, row_vectors, column_vectors, i, j)
    }
    row_texts = problem.texts(row_ids)
    column_texts = None if problem.config.pointwise else problem.texts(column_ids)
    for baseline in default_baselines(row_vectors, column_vectors, row_texts, column_texts):
        baseline.fit(i[fitted], j[fitted], truth[fitted])
        predictions[baseline.name] = baseline.predict_pairs(i, j)
    d = plan.design
    quality = assess(
        truth,
        predictions,
        estimator=ref.architecture,
        columns=columns,
        quadrants=quadrant(np.isin(rows, d.label_rows), np.isin(columns, d.label_columns)),
        function=problem.config.influence.function,
        target_tasks=None if problem.config.pointwise else _tasks(problem, columns),
        seed=problem.config.seed,
    )
    return [asdict(q) for q in quality]


def assessed(problem: Problem, plan: ExactPlan) -> list[object]:
    """Identity of what `assess_estimator` looks at: labels, audit pairs, tasks of the targets."""
    labels = [[s.rows, s.columns] for s in plan.shards if s.layout == "tile"]
    tasks = [problem.task_names, problem.task_of_target.tolist(), problem.target_contents.tolist()]
    return [labels, plan.audit_rows.tolist(), plan.audit_columns.tolist(), tasks]


def _predict(
    network: Any,
    row_vectors: npt.NDArray[np.float32],
    column_vectors: npt.NDArray[np.float32],
    i: Int64,
    j: Int64,
    step: int = 65_536,
) -> npt.NDArray[np.float32]:
    parts = [
        network.predict_pairs(row_vectors[i[s : s + step]], column_vectors[j[s : s + step]])
        for s in range(0, len(i), step)
    ]
    return np.concatenate(parts)


def _tasks(problem: Problem, columns: Int64) -> npt.NDArray[np.str_]:
    """Task of each pair's column; a content that several tasks hold counts for its first."""
    first: dict[int, str] = {}
    for content, task in zip(problem.target_contents.tolist(), problem.task_of_target.tolist(), strict=True):
        first.setdefault(content, problem.task_names[task])
    return np.array([first[c] for c in columns.tolist()], dtype=np.str_)
