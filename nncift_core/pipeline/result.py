"""What a finished run publishes: the rows and files behind its views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from nncift_core.influence.contract import CostModel
from nncift_core.influence.registry import implementation
from nncift_core.pipeline.embed import embeddings_needed
from nncift_core.pipeline.estimator_features import estimator_features_needed
from nncift_core.pipeline.exact import ExactPlan
from nncift_core.pipeline.labelling import learning_pointless
from nncift_core.pipeline.problem import SIDES, Problem
from nncift_core.store.datasets import Dataset
from nncift_core.store.files import sum_counts
from nncift_core.store.references import EstimatorRef
from nncift_core.store.workspace import Workspace


def members_table(problem: Problem, plan: ExactPlan) -> pa.Table:
    """Rows and columns of the matrix as the user knows them, with their contents and labels.

    One line per pool row (candidate), existing row and target row.
    """
    parts = [_side("row", problem.pool, plan.design.label_rows, candidate=True)]
    parts += [_side("row", d, plan.design.label_rows, candidate=False) for d in problem.of_role("existing")]
    if not problem.config.pointwise:
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


def run_facts(
    problem: Problem, plan: ExactPlan, exact_pairs_used: int, refined_pairs: int = 0
) -> dict[str, Any]:
    """What a person should hear of the run: labels, what was cut, dropped or found twice.

    refined_pairs: exact pairs bought after the estimates. Counts of cut texts are summed over all stored
    values the run uses, computed now or reused.
    """
    files = set(problem.exact_store.files(problem.rows))
    for side, ids in zip(SIDES, (problem.rows, problem.columns), strict=True):
        if embeddings_needed(problem.config):
            files.update(problem.vectors(side).files(ids))
        if "features" in implementation(problem.config).needs:
            files.update(problem.features(side).files(ids))
        if not problem.all_exact and estimator_features_needed(problem.config):
            files.update(problem.forward_store.files(ids))
    refs = [d.ref for d in problem.datasets]
    unread = sum(d.ref.rows for d in problem.of_role("target")) if problem.config.pointwise else 0
    return {
        **sum_counts(problem.ws.root, sorted(files)),
        "duplicates": sum(r.duplicates for r in refs),
        "dropped_rows": sum(len(r.dropped) for r in refs),
        "target_rows_not_read": unread,
        "exact_is_cheap": not problem.all_exact and implementation(problem.config).cost == CostModel(),
        "kind": "pointwise" if problem.config.pointwise else "pairwise",
        "store_matrix": problem.config.shards.store_matrix,
        **_label_facts(problem, plan),
        "exact_pairs_from_other_runs": max(0, exact_pairs_used - plan.pairs - refined_pairs),
    }


def _label_facts(problem: Problem, plan: ExactPlan) -> dict[str, Any]:
    """The label design: its kind, size and cost, and what of it went away with the rows it was drawn on."""
    ref, pairs = plan.design.ref, len(plan.labels()[0])
    facts: dict[str, Any] = {
        "label_design": ref.kind,
        "label_pairs": pairs,
        "label_pairs_gone": max(0, ref.pairs - pairs),
        "labelled_rows": ref.rows,
        "labelled_columns": ref.columns,
        "labels_kept_from_earlier_run": ref.reused,
        "learning_pointless": int(learning_pointless(problem.config)),
    }
    if ref.cost is not None:
        facts |= {"label_cost": ref.cost, "label_block_cost": ref.block_cost}
        facts["label_cost_unit"] = ref.cost_unit
    return facts


def result_record(
    problem: Problem,
    run_id: str,
    plan: ExactPlan,
    ref: EstimatorRef | None,
    tables: dict[str, str],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Everything `store.views` needs to answer for this run; relative paths only."""
    exact = problem.exact_store
    kept = problem.config.shards.store_matrix
    estimates = problem.estimate_store(ref.key) if ref and kept == "all" else None
    return {
        "run_id": run_id,
        "datasets": [
            {**d.ref.model_dump(mode="json"), "blocks": [problem.ws.relative(b) for b in d.blocks]}
            for d in problem.datasets
        ],
        "matrix": {
            "function": problem.config.influence.function,
            "function_key": problem.keys.values,
            "encoder_key": problem.keys.encoder,
            "design": plan.design.kind,
            "design_key": plan.design.ref.key,
            "predictor": ref.architecture if ref else None,
            "learned": ref.learned if ref else True,
            "half_width": facts.get("interval_half_width"),
            "estimator": ref.model_dump() if ref else None,
            "exact": exact.files(problem.rows) if kept != "none" else [],
            "estimates": estimates.files(problem.rows) if estimates else [],
            "members": tables["members"],
            "keys": asdict(problem.keys),
            "base_dir": problem.config.base_dir,
        },
        "tables": {k: v for k, v in tables.items() if k != "members"},
        "facts": facts,
    }


def record_without_matrix(
    ws: Workspace,
    datasets: Sequence[Dataset],
    run_id: str,
    kind: str,
    tables: dict[str, str],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """What `store.views` needs to answer for a run that has no matrix of its own; kind: which page is its
    report (`pipeline.report`)."""
    matrix: dict[str, Any] = {"function": kind, "exact": [], "estimates": [], "members": None}
    return {
        "run_id": run_id,
        "kind": kind,
        "datasets": [
            {**d.ref.model_dump(mode="json"), "blocks": [ws.relative(b) for b in d.blocks]} for d in datasets
        ],
        "matrix": {**matrix, "estimator": None, "keys": {}},
        "tables": tables,
        "facts": facts,
    }
