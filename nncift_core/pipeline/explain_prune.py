"""What a prune run says of one row: its scores, kept or dropped, and whether its label looks wrong."""

from __future__ import annotations

from typing import Any

from nncift_core.pipeline.explain_row import Found, described, find_row
from nncift_core.scores.catalogue import CATALOGUE
from nncift_core.store.datasets import Dataset
from nncift_core.store.query import rows
from nncift_core.store.references import DatasetRef
from nncift_core.store.workspace import Workspace

# By the name that views show: which end of a score's values is hard to learn.
_HARD = {shown: entry.hard for name, entry in CATALOGUE.items() for shown in (name, entry.frozen or name)}
_EXPLAINED = ("train", "new")


def explain_pruned(ws: Workspace, result: dict[str, Any], asked: str) -> dict[str, Any]:
    """The facts of `explain.explain` for a run of `nncift prune`; keys as told there."""
    datasets = _datasets(ws, result)
    row = find_row(
        [d for d in datasets if d.ref.role in _EXPLAINED],
        [d for d in datasets if d.ref.role not in _EXPLAINED],
        asked,
    )
    run_id, facts = result["run_id"], result["facts"]
    kept = rows(ws, "SELECT train_id, rank, score FROM selection ORDER BY rank", run_id)
    ranks = {k["train_id"]: k["rank"] for k in kept}
    return {
        "run": {
            "run_id": run_id,
            "kind": "prune",
            "function": "prune",
            "rule": None,
            "chosen": len(kept),
            "pool_rows": facts["rows"],
        },
        "row": described(row, ranks),
        "scores": _scores(ws, run_id, row.example_id),
        "subset": _subset(ws, result, row, kept),
        "suspect": _suspect(ws, run_id, row.example_id),
        "suspects": facts.get("suspects"),
        "suspects_left_out": facts.get("suspects_left_out", 0),
        "notes": [],
    }


def _datasets(ws: Workspace, result: dict[str, Any]) -> list[Dataset]:
    names = DatasetRef.model_fields
    return [Dataset(ws, DatasetRef(**{k: v for k, v in d.items() if k in names})) for d in result["datasets"]]


def _scores(ws: Workspace, run_id: str, example: int) -> list[dict[str, Any]]:
    """Every score of a row among the rows that have it alike (measured, or learned for new rows)."""
    found = rows(
        ws,
        f"""WITH own AS (SELECT * FROM scores WHERE train_id = {example})
 SELECT o.function AS score, o.variant, o.origin, any_value(o.score) AS value, count(*) AS of,
 count(*) FILTER (s.score < o.score) AS below, count(*) FILTER (s.score = o.score) - 1 AS equal
 FROM own o JOIN scores s ON s.function = o.function AND s.variant = o.variant AND s.origin = o.origin
 GROUP BY ALL ORDER BY 1, 2, 3""",
        run_id,
    )
    told = []
    for one in found:
        below, equal, others = one.pop("below"), one.pop("equal"), one["of"] - 1
        percentile = 100 * (below + equal / 2) / others if others else None
        hard = _HARD.get(one["score"], "high")
        easier = percentile if percentile is None or hard == "high" else 100 - percentile
        told.append({**one, "percentile": percentile, "hard_end": hard, "difficulty": easier})
    return told


def _subset(
    ws: Workspace, result: dict[str, Any], row: Found, kept: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Kept or dropped, and by which score; None where no subset was written or the row was not up for it."""
    run_id = result["run_id"]
    if not kept or row.dataset.ref.role != "train":
        return None
    own = next((k for k in kept if k["train_id"] == row.example_id), None)
    deciding = rows(
        ws,
        """SELECT function AS score, variant FROM scores JOIN selection USING (train_id)
 GROUP BY ALL HAVING bool_and(scores.score = selection.score) ORDER BY 1, 2 LIMIT 1""",
        run_id,
    )
    told: dict[str, Any] = {
        "kept": own is not None,
        "rank": own["rank"] if own else None,
        "of": len(kept),
        "by": result["facts"].get("subset_by"),
        "score": None,
        "variant": None,
        "value": None,
        "edge": kept[-1]["score"],
    }
    if deciding:
        name, variant = deciding[0]["score"], deciding[0]["variant"]
        sql = f"""SELECT score FROM scores WHERE function = '{name}' AND variant = '{variant}'
 AND train_id = {row.example_id} AND origin = 'exact'"""
        told |= {"score": name, "variant": variant, "value": rows(ws, sql, run_id)[0]["score"]}
    return told


def _suspect(ws: Workspace, run_id: str, example: int) -> dict[str, Any] | None:
    columns = "rank, given, predicted, probability, consensus, agreement"
    found = rows(ws, f"SELECT {columns} FROM suspects WHERE train_id = {example}", run_id)
    return found[0] if found else None
