"""What differs between two runs of a workspace: settings, data, estimator, scores, subset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from nncift_core.pipeline.diff import Chosen, changes, common_scores, summary
from nncift_core.pipeline.diff_objective import objective_change
from nncift_core.store.files import verify
from nncift_core.store.query import rows
from nncift_core.store.runs import read_attempts, read_result
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]

_FACTS = {
    "estimator": "estimator",
    "used": "estimator_used",
    "verdict": "estimator_verdict",
    "reason": "estimator_reason",
    "chosen_because": "estimator_choice",
}


@dataclass(frozen=True, eq=False)
class RunDiff:
    """before, after: what the runs chose; told: JSON-ready comparison; changes: rows of `subset_changes`."""

    before: Chosen
    after: Chosen
    told: dict[str, Any]
    changes: list[dict[str, Any]]


def compare_runs(ws: Workspace, run_before: str, run_after: str) -> RunDiff:
    """Two published runs side by side (ids or unique prefixes).

    told: before, after (id, function, rule, chosen rows, pool rows); notes (what limits the comparison);
    config (key, before, after: keys that differ); data (per role: rows before and after, added, removed);
    estimator (of each run); subset (both, entered, left, jaccard); scores (common rows; spearman, None below
    3 rows or without spread); summary (as `diff.summary`). Raises UserError for a run that is not there or
    has no result, IntegrityError for a lost file.
    """
    before, after = Chosen.of_run(ws, run_before), Chosen.of_run(ws, run_after)
    results = [_result(ws, chosen.run_id) for chosen in (before, after)]
    moved = changes(before, after)
    told = {
        "before": _named(before, results[0]),
        "after": _named(after, results[1]),
        "notes": _notes(before, after, results),
        "config": _config(ws, before.run_id, after.run_id),
        "data": _data(ws, *results),
        "estimator": [_estimator(result) for result in results],
        "subset": _overlap(before, after),
        "scores": _agreement(before, after),
        "summary": summary(moved),
        "objective": objective_change(ws, before, after, results),
    }
    return RunDiff(before, after, told, moved)


def excerpts(ws: Workspace, diff: RunDiff, moved: list[dict[str, Any]]) -> dict[int, str]:
    """The prompts of the rows of `moved` by example id, as read: of the run in whose subset they are."""
    found: dict[int, str] = {}
    for change, chosen in (("entered", diff.after), ("left", diff.before)):
        ids = [row["train_id"] for row in moved if row["change"] == change]
        if ids:
            listed = ", ".join(map(str, ids))
            sql = f"SELECT example_id, prompt FROM examples WHERE example_id IN ({listed})"
            found |= {row["example_id"]: row["prompt"] for row in rows(ws, sql, chosen.run_id)}
    return found


def _result(ws: Workspace, run_id: str) -> dict[str, Any]:
    result = read_result(ws, run_id)
    assert result is not None
    return result


def _named(chosen: Chosen, result: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_id": chosen.run_id,
        "function": result["matrix"]["function"],
        "rule": chosen.rule,
        "chosen": len(chosen.rank),
        "pool_rows": len(chosen.score),
        "published_at": result.get("published_at"),
    }


def _notes(before: Chosen, after: Chosen, results: list[dict[str, Any]]) -> list[str]:
    """What a reader must know to read the rest."""
    notes = []
    functions = [result["matrix"]["function"] for result in results]
    if functions[0] != functions[1]:
        notes.append(
            f"the runs use different functions ({functions[0]} and {functions[1]}): their scores are on "
            "other scales, and reasons by score say little"
        )
    if not before.score.keys() & after.score.keys():
        notes.append("the runs value different pools: no row is in both")
    if before.rule != after.rule:
        notes.append(f"the runs select by different rules ({before.rule} and {after.rule})")
    if after.rule != "top-k":
        notes.append(
            f"{after.rule} picks a row for what it adds beside those before it: rank is the order of "
            "picking, and a score that moved is a likely reason, no proof"
        )
    return notes


def _config(ws: Workspace, before: str, after: str) -> list[dict[str, Any]]:
    latest = {a["run_id"]: a["config"] for a in read_attempts(ws)}
    old, new = _flat(latest.get(before, {})), _flat(latest.get(after, {}))
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return [{"key": key, "before": old.get(key), "after": new.get(key)} for key in keys]


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out


def _data(ws: Workspace, old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of each role that came and went, by their ids; a row of another data set name is another row."""
    roles = list(dict.fromkeys(d["role"] for result in (old, new) for d in result["datasets"]))
    found = []
    for role in roles:
        ids = [_ids(ws, result, role) for result in (old, new)]
        found.append(
            {
                "role": role,
                "before": len(ids[0]),
                "after": len(ids[1]),
                "added": len(np.setdiff1d(ids[1], ids[0])),
                "removed": len(np.setdiff1d(ids[0], ids[1])),
            }
        )
    return found


def _ids(ws: Workspace, result: dict[str, Any], role: str) -> Int64:
    parts = [np.empty(0, np.int64)]
    for path in {d["path"] for d in result["datasets"] if d["role"] == role}:
        verify(ws.root / path)
        parts.append(pq.read_table(ws.root / path, columns=["example_id"])["example_id"].to_numpy())
    return np.unique(np.concatenate(parts))


def _estimator(result: dict[str, Any]) -> dict[str, Any]:
    """What estimated and what the audit says of it; all None where every value is exact."""
    told = {name: result["facts"].get(fact) for name, fact in _FACTS.items()}
    stored = result["matrix"].get("estimator") or {}
    return told | {
        "key": stored.get("key"),
        "labels": stored.get("labels"),
        "warm_from": stored.get("warm_from"),
    }


def _overlap(before: Chosen, after: Chosen) -> dict[str, Any]:
    both, either = before.rank.keys() & after.rank.keys(), before.rank.keys() | after.rank.keys()
    return {
        "both": len(both),
        "entered": len(after.rank) - len(both),
        "left": len(before.rank) - len(both),
        "jaccard": len(both) / len(either) if either else None,
    }


def _agreement(before: Chosen, after: Chosen) -> dict[str, Any]:
    """Rank agreement of the scores of rows in both pools."""
    old, new = common_scores(before, after)
    spearman = None
    if len(old) > 2 and np.ptp(old) > 0 and np.ptp(new) > 0:
        from scipy.stats import spearmanr

        spearman = float(spearmanr(old, new).statistic)
    return {"common_rows": len(old), "spearman": spearman}
