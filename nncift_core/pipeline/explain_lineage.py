"""Where a row's values come from, and what they cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from nncift_core.influence.registry import implementation
from nncift_core.pipeline.explain_objective import Stored
from nncift_core.pipeline.explain_row import Found
from nncift_core.pipeline.explain_values import RowValues
from nncift_core.store.lineage import Lineage
from nncift_core.store.runs import read_costs
from nncift_core.store.segments import read_index


def origins(stored: Stored, row: Found, values: RowValues) -> dict[str, Any]:
    """Files, runs and costs behind a row's values.

    Keys: pairs (distinct texts of the targets), exact_pairs, exact (files with measured pairs of the row:
    artifact, pairs, producer, created_at, run_id and attempt, None where nothing tells), estimator (of the
    other pairs: architecture, learned, labels, artifact, run_id, attempt, verdict, reason; None where all
    pairs of the run are exact), costs (per stage of this run, summed over attempts: stage, items, computed,
    seconds, seconds_per_item, None where all was reused), row_seconds (one row against all targets at those
    prices, "exact" and "estimated": its embedding and features, and its pairs; None where this run has
    computed none of a part).
    """
    lineage = Lineage(stored.ws)
    costs = _costs(stored)
    pairs = len(stored.problem.columns)
    return {
        "pairs": pairs,
        "exact_pairs": values.exact_pairs,
        "exact": _exact(stored, row, lineage),
        "estimator": _estimator(stored, lineage),
        "costs": costs,
        "row_seconds": _row_seconds(stored, costs, pairs),
    }


def _exact(stored: Stored, row: Found, lineage: Lineage) -> list[dict[str, Any]]:
    """One entry per file of exact values that holds pairs of the row with the run's targets."""
    columns, found = stored.problem.columns, []
    for artifact in stored.problem.exact_store.files(np.array([row.content])):
        segment = read_index(stored.ws.root / artifact)
        of_row = segment.column_ids
        if segment.layout == "pairs":
            of_row = of_row[segment.row_ids == row.content]
        pairs = int(np.isin(of_row, columns).sum())
        if pairs:
            node = lineage.node(artifact)
            found.append(
                {
                    "artifact": artifact,
                    "pairs": pairs,
                    "producer": node.producer,
                    "created_at": node.created_at,
                    "run_id": node.run_id or None,
                    "attempt": node.attempt,
                }
            )
    return sorted(found, key=lambda f: (f["created_at"], f["artifact"]))


def _estimator(stored: Stored, lineage: Lineage) -> dict[str, Any] | None:
    if stored.ref is None:
        return None
    ref, node = stored.ref.model_dump(), lineage.node(stored.ref.path)
    return {
        "architecture": ref["architecture"],
        "learned": ref["learned"],
        "labels": ref.get("labels"),
        "artifact": stored.ref.path,
        "run_id": node.run_id or None,
        "attempt": node.attempt,
        "verdict": stored.facts.get("estimator_verdict"),
        "reason": stored.facts.get("estimator_reason"),
    }


def _costs(stored: Stored) -> list[dict[str, Any]]:
    """Stages in the order in which they first ended; items are those of the stage's latest turn."""
    found: dict[str, dict[str, Any]] = {}
    for cost in read_costs(stored.ws, stored.run_id):
        name = cost["stage"]
        stage = found.setdefault(name, {"stage": name, "items": 0, "computed": 0, "seconds": 0.0})
        stage["items"] = cost["items"]
        stage["computed"] += cost["computed"]
        stage["seconds"] += cost["seconds"]
    for stage in found.values():
        done = stage["computed"]
        stage["seconds_per_item"] = stage["seconds"] / done if done else None
    return list(found.values())


def _row_seconds(stored: Stored, costs: list[dict[str, Any]], pairs: int) -> dict[str, float | None]:
    """Seconds that one more row takes against all targets: what is made once per row, and its pairs."""
    needs, ran = implementation(stored.problem.config).needs, {c["stage"] for c in costs}
    exact = {"embed": "embedding" in needs, "features": "features" in needs}
    per_row = {
        "exact": [stage for stage, needed in exact.items() if needed],
        "estimated": [stage for stage in ("embed", "estimator-features") if stage in ran],
    }
    per_pair = {"exact": "exact-influence", "estimated": "estimate-influence"}
    each = {c["stage"]: c["seconds_per_item"] for c in costs}

    def seconds(kind: str) -> float | None:
        parts = [(each.get(stage), 1) for stage in per_row[kind]] + [(each.get(per_pair[kind]), pairs)]
        if any(price is None for price, _ in parts):
            return None
        return sum(float(price or 0) * items for price, items in parts)

    return {"exact": seconds("exact"), "estimated": seconds("estimated") if stored.ref else None}
