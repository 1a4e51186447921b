"""A refresh that finds nothing new: the last result stands, and the attempt says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq

from flows import refresh_artifacts
from nncift_core.pipeline.refresh import changes
from nncift_core.store.runs import Attempt, Cost, read_costs
from nncift_core.store.workspace import Workspace
from tasks.progress import say

_REASON = "no row of the pool and no target row is new, and none has gone"


def stands(attempt: Attempt, result: dict[str, Any]) -> dict[str, Any]:
    """The fields of `ValuationResult` of `result`, which is of this run and complete; nothing is computed.

    The attempt's costs name the stages of the attempt that published it, with everything reused.
    """
    ws = attempt.ws
    for cost in _costs_of(ws, result):
        attempt.cost(replace(cost, computed=0, reused=cost.items, seconds=0.0))
    told = f"refresh: nothing new: {_REASON}"
    say(told)
    facts = {
        **result["facts"],
        **changes(ws, (), ()),
        "refresh_previous_run": result["run_id"],
        "refresh_decision": "nothing new",
        "refresh_reason": _REASON,
        "refresh_told": told,
        "refresh_audit_pairs": 0,
        "refresh_error_new": None,
        "refresh_error_known": None,
        "refresh_p": None,
        "refresh_labels_added": 0,
        "refresh_entered": 0,
        "refresh_left": 0,
    }
    refresh_artifacts.publish(attempt.run_id, facts)
    adapter = facts.get("adapter")
    return {
        "run_id": attempt.run_id,
        "attempt": attempt.number,
        "workspace": ws.address,
        "subset": str(ws.root / facts["subset"]),
        "report": str(ws.report_file(attempt.run_id)),
        "adapter": str(ws.root / adapter) if adapter else None,
        "selected": facts["budget"],
        "pool_rows": sum(d["rows"] for d in result["datasets"] if d["role"] == "pool"),
        "target_rows": _target_rows(result),
        "quality": _rows(ws, result, "estimator_quality"),
        "comparison": _rows(ws, result, "comparison"),
        "costs": attempt.costs(),
        "facts": facts,
    }


def _costs_of(ws: Workspace, result: dict[str, Any]) -> list[Cost]:
    """Costs of the attempt that published `result`, but those of reading, which this attempt did itself."""
    names = ("stage", "device", "items", "computed", "reused", "seconds", "peak_rss_mb")
    rows = read_costs(ws, result["run_id"], result["attempt"])
    return [Cost(**{n: c[n] for n in names}) for c in rows if c["stage"] != "ingest"]


def _target_rows(result: dict[str, Any]) -> int:
    """Rows of the targets; of the pool where it is valued against itself."""
    rows = {"target": 0, "pool": 0}
    for d in result["datasets"]:
        rows[d["role"]] = rows.get(d["role"], 0) + int(d["rows"])
    return rows["target"] or rows["pool"]


def _rows(ws: Workspace, result: dict[str, Any], view: str) -> list[dict[str, Any]]:
    """Rows of a table of `result` without run_id; none where it has no such table."""
    path = result["tables"].get(view)
    if path is None:
        return []
    rows: list[dict[str, Any]] = pq.read_table(ws.root / path).to_pylist()
    return [{k: v for k, v in row.items() if k != "run_id"} for row in rows]
