"""What a finished run publishes: the rows and files behind its views."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from nncift_core.pipeline.exact import ExactPlan
from nncift_core.pipeline.problem import Problem
from nncift_core.store.datasets import Dataset
from nncift_core.store.references import EstimatorRef
from nncift_core.store.segments import SegmentStore


def members_table(problem: Problem, plan: ExactPlan) -> pa.Table:
    """Rows and columns of the matrix as the user knows them, with their contents and labels.

    One line per pool row (candidate), existing row and target row.
    """
    parts = [_side("row", problem.pool, plan.design.label_rows, candidate=True)]
    parts += [_side("row", d, plan.design.label_rows, candidate=False) for d in problem.of_role("existing")]
    parts += [_side("column", d, plan.design.label_columns, candidate=True) for d in problem.targets]
    return pa.concat_tables(parts)


def _side(side: str, dataset: Dataset, labelled: Any, *, candidate: bool) -> pa.Table:
    n = len(dataset.content_ids)
    return pa.table(
        {
            "side": pa.array([side] * n, pa.string()),
            "example_id": pa.array(dataset.example_ids),
            "content_id": pa.array(dataset.content_ids),
            "labelled": pa.array(np.isin(dataset.content_ids, labelled)),
            "candidate": pa.array([candidate] * n, pa.bool_()),
        }
    )


def result_record(
    problem: Problem,
    run_id: str,
    ref: EstimatorRef | None,
    tables: dict[str, str],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Everything `store.views` needs to answer for this run; relative paths only."""
    exact = SegmentStore(problem.ws, "exact", problem.keys.function)
    estimates = SegmentStore(problem.ws, "estimate", ref.key) if ref else None
    return {
        "run_id": run_id,
        "datasets": [
            {**d.ref.model_dump(mode="json"), "blocks": [problem.ws.relative(b) for b in d.blocks]}
            for d in problem.datasets
        ],
        "matrix": {
            "function": problem.config.influence.function,
            "function_key": problem.keys.function,
            "encoder_key": problem.keys.encoder,
            "predictor": ref.architecture if ref else None,
            "estimator": ref.model_dump() if ref else None,
            "exact": exact.files(problem.rows),
            "estimates": estimates.files(problem.rows) if estimates else [],
            "members": tables["members"],
        },
        "tables": {k: v for k, v in tables.items() if k != "members"},
        "facts": facts,
    }
