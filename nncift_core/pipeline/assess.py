"""Estimates against exact values: audit pairs that no fit has seen say whether to trust the estimator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.baselines import default_baselines
from nncift_core.estimator.contract import Estimator, Features
from nncift_core.estimator.drift import after_drift, drift
from nncift_core.estimator.error_ranks import groups
from nncift_core.estimator.gate import Verdict, judge
from nncift_core.estimator.intervals import conformal
from nncift_core.estimator.quality import assess
from nncift_core.estimator.refits import group_gains, learning_curve
from nncift_core.estimator.registry import make, name_of, name_shown
from nncift_core.pipeline.estimate import Known, choosing, known_values, load_estimator, read_by
from nncift_core.pipeline.exact import ExactPlan, quadrant_of_pairs
from nncift_core.pipeline.problem import Problem
from nncift_core.store.references import EstimatorRef

Int64 = npt.NDArray[np.int64]
Predictions = dict[str, npt.NDArray[np.float32]]

# Beyond this many labels, refits that only inform would cost more than the fit itself.
STUDY_LABELS = 20_000


def assess_estimator(problem: Problem, plan: ExactPlan, ref: EstimatorRef) -> dict[str, Any]:
    """What the audit says of the estimator of `ref`, JSON-ready.

    quality: rows of `estimator_quality` (without run_id), the estimator beside every cheap baseline fitted
    on the same labels; verdict: fields of `gate.Verdict`; drift: fields of `drift.Drift`, and what to tell
    of it; pairs: the audit pairs with exact value and prediction; intervals: half widths of 90 % intervals,
    by predictor; gains: what each feature group and more labels would bring. Pairs that chose the estimator
    measure nothing.
    """
    measured = ~choosing(problem, plan)
    features, labels, audit = known_values(problem, plan, measured)
    predictions = _predictions(problem, ref, features, labels, audit)
    truth = np.concatenate([labels.values, audit.values])
    seen = slice(len(labels.i), None)
    unseen = {name: p[seen] for name, p in predictions.items()}
    # A baseline that won the choice stays one: it is never better than itself.
    baselines = [name for name in predictions if name != ref.architecture or not ref.learned]
    verdict = judge(
        audit.values,
        unseen,
        estimator=ref.architecture,
        baselines=baselines,
        columns=audit.j,
        seed=problem.config.seed,
    )
    new, of = _new(features, audit, plan)
    moved = drift(audit.values, unseen[ref.architecture], new, of, _mean(labels))
    if ref.learned:
        verdict = after_drift(verdict, moved)
    rows, columns = (
        features.row_ids[np.concatenate([labels.i, audit.i])],
        features.column_ids[np.concatenate([labels.j, audit.j])],
    )
    quality = assess(
        truth,
        predictions,
        estimator=ref.architecture,
        columns=columns,
        quadrants=quadrant_of_pairs(plan.design, rows, columns),
        function=problem.config.influence.function,
        target_tasks=None if problem.config.pointwise else _tasks(problem, columns),
        seed=problem.config.seed,
        overall=f"{verdict.level}: {verdict.reason}",
        learned=ref.learned,
    )
    return {
        "quality": [asdict(q) for q in quality],
        "verdict": asdict(verdict),
        "drift": asdict(moved) | {"told": moved.told},
        "pairs": _pairs(features, audit, unseen[ref.architecture]),
        "intervals": {name: conformal(audit.values, p).half_width for name, p in unseen.items()},
        "gains": _gains(problem, ref, features, labels, audit, verdict),
    }


def _new(features: Features, audit: Known, plan: ExactPlan) -> tuple[npt.NDArray[np.bool_], Int64]:
    """Whether the row or the column of each audit pair was not there when the labels were drawn, [k], and
    which of the two each pair counts for, [k]."""
    rows, columns = features.row_ids[audit.i], features.column_ids[audit.j]
    new_row, new_column = ~np.isin(rows, plan.design.all_rows), ~np.isin(columns, plan.design.all_columns)
    return new_row | new_column, groups(rows, columns, new_row, new_column)


def _mean(labels: Known) -> float:
    return float(labels.values.mean()) if len(labels.values) else 0.0


def assessed(problem: Problem, plan: ExactPlan) -> list[object]:
    """Identity of what `assess_estimator` looks at: labels, audit pairs, tasks of the targets."""
    tasks = [problem.task_names, problem.task_of_target.tolist(), problem.target_contents.tolist()]
    audit = [plan.audit_rows.tolist(), plan.audit_columns.tolist()]
    return [[part.tolist() for part in plan.labels()], *audit, tasks]


def estimation_rows(
    problem: Problem, run_id: str, ref: EstimatorRef | None, check: dict[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Rows of the views that say how far to trust the estimates: quality, candidates, gains, audit pairs."""
    head = {"run_id": run_id, "function": problem.config.influence.function}
    found: dict[str, list[dict[str, Any]]] = {
        "estimator_quality": [{**head, **q} for q in check.get("quality", [])],
        "estimator_candidates": [{**head, **c} for c in _candidates(ref.candidates if ref else ())],
        "estimator_gains": [{**head, **g} for g in check.get("gains", [])],
        "audit": [],
    }
    if ref is not None:
        rows = _first_rows(problem.pool.content_ids, problem.pool.example_ids)
        for dataset in problem.of_role("existing"):
            rows = _first_rows(dataset.content_ids, dataset.example_ids) | rows
        columns: dict[int, int] = {}
        for dataset in [] if problem.config.pointwise else problem.targets:
            columns = _first_rows(dataset.content_ids, dataset.example_ids) | columns
        found["audit"] = [
            {
                **head,
                "predictor": ref.architecture,
                "train_id": rows[pair["row_content"]],
                "target_id": columns.get(pair["column_content"]),
                "exact": pair["exact"],
                "predicted": pair["predicted"],
            }
            for pair in check["pairs"]
        ]
    return found


def _candidates(found: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row per candidate and part of its criterion, best candidate first."""
    fixed = ("candidate", "place", "learned", "criterion", "seconds", "failed")
    places = {"winner": 0, "runner-up": 1}
    order = sorted(found, key=lambda c: (places.get(c["place"], 2), -(c["criterion"] or -np.inf)))
    for rank, c in enumerate(order, 1):
        common = {
            "rank": rank, "predictor": name_shown(c["candidate"]), "learned": c["learned"],
            "criterion": c["criterion"], "seconds": c["seconds"], "failed": c["failed"],
        }  # fmt: skip
        parts: list[tuple[str | None, Any]] = [(k, v) for k, v in c.items() if k not in fixed]
        for component, value in parts or [(None, None)]:
            yield {**common, "component": component, "value": value}


def _first_rows(contents: Int64, example_ids: Int64) -> dict[int, int]:
    """The first row of each content."""
    pairs = zip(contents.tolist()[::-1], example_ids.tolist()[::-1], strict=True)
    return dict(pairs)


def _predictions(
    problem: Problem, ref: EstimatorRef, features: Features, labels: Known, audit: Known
) -> Predictions:
    """Of the estimator and of every baseline: labels first, then audit pairs."""
    i, j = np.concatenate([labels.i, audit.i]), np.concatenate([labels.j, audit.j])
    readable = read_by(problem.config, ref.architecture, features)
    found = {ref.architecture: load_estimator(problem, ref).predict_pairs(readable, i, j)}
    for baseline in default_baselines(features):
        if baseline.name not in found:
            baseline.fit(features, labels.i, labels.j, labels.values, seed=problem.config.seed)
            found[baseline.name] = baseline.predict_pairs(features, i, j)
    return found


def _pairs(features: Features, audit: Known, predicted: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
    rows, columns = features.row_ids[audit.i].tolist(), features.column_ids[audit.j].tolist()
    values = zip(rows, columns, audit.values.tolist(), predicted.tolist(), strict=True)
    names = ("row_content", "column_content", "exact", "predicted")
    return [dict(zip(names, v, strict=True)) for v in values]


def _gains(
    problem: Problem, ref: EstimatorRef, features: Features, labels: Known, audit: Known, verdict: Verdict
) -> list[dict[str, Any]]:
    """What feature groups and labels buy, by refits judged on the audit; none for baselines and few pairs."""
    if not ref.learned or len(audit.i) < 30 or len(labels.i) > STUDY_LABELS:
        return []
    again: partial[Estimator] = partial(
        make, name_of(ref.architecture), hidden=problem.config.estimator.hidden
    )
    readable = read_by(problem.config, ref.architecture, features)
    given = (readable, labels.i, labels.j, labels.values, again)
    measure, seed = (audit.i, audit.j, audit.values), problem.config.seed
    groups = group_gains(*given, measure, seed=seed)
    n = len(labels.i)
    rows: list[dict[str, Any]] = [
        {"setting": "none", "spearman": g["spearman"], "gain": None} for g in groups[:1]
    ]
    rows += [{"setting": g["group"], "spearman": g["spearman_without"], "gain": g["bought"]} for g in groups]
    common = {"study": "features", "labels": n, "r2": None, "extrapolated": False}
    found: list[dict[str, Any]] = [common | row for row in rows]
    for point in learning_curve(*given, measure, seed=seed):
        row = {"study": "labels", "setting": None, "gain": None, "labels": point["labels"]}
        found.append(row | {k: point[k] for k in ("spearman", "r2", "extrapolated")})
    return found


def _tasks(problem: Problem, columns: Int64) -> npt.NDArray[np.str_]:
    """Task of each pair's column; a content that several tasks hold counts for its first."""
    first: dict[int, str] = {}
    for content, task in zip(problem.target_contents.tolist(), problem.task_of_target.tolist(), strict=True):
        first.setdefault(content, problem.task_names[task])
    return np.array([first[c] for c in columns.tolist()], dtype=np.str_)
