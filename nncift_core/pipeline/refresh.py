"""What a recurring run does otherwise: which run it goes on from, what is new, and labels for what is new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from nncift_core.errors import IntegrityError
from nncift_core.estimator.error_ranks import groups
from nncift_core.estimator.holding import Holding, holding
from nncift_core.estimator.label_growth import added_block, added_pairs
from nncift_core.pipeline.exact import ExactPlan
from nncift_core.pipeline.problem import Problem
from nncift_core.store.datasets import version_rows
from nncift_core.store.designs import Drawn, StoredDesign, extend_design, load_design, note_design
from nncift_core.store.references import DatasetRef, Refresh
from nncift_core.store.runs import finished, intact, published
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Kind = Literal["first", "nothing new", "kept", "retrained"]


@dataclass(frozen=True)
class Decision:
    """What a refresh does, and why, in one sentence.

    first: a full valuation, for there is no earlier result of the job; nothing new: the last result stands;
    kept: design and estimator of the earlier run; retrained: labels were added, the estimator fitted anew.
    """

    kind: Kind
    reason: str


def earlier_result(ws: Workspace, series: str, run_id: str) -> tuple[dict[str, Any] | None, bool]:
    """The published result that a refresh goes on from, and whether it is of this very run and complete.

    The newest one of the series. One of this run that was killed before its end, or is damaged, is no ground
    to stand on: then the one that it went on from. Results whose list of rows is lost are passed over.
    """
    found = published(ws, series)
    if not found:
        return None, False
    if found[0]["run_id"] == run_id:
        if finished(ws, found[0]):
            return found[0], True
        before = found[0]["facts"].get("refresh_previous_run", "")
        found = [r for r in found if r["run_id"] == before]
    others = [r for r in found if r["run_id"] != run_id and _listed(ws, r)]
    return (others[0], False) if others else (None, False)


def _listed(ws: Workspace, result: dict[str, Any]) -> bool:
    try:
        for ref in refs_of(result):
            version_rows(ws, ref)
    except (IntegrityError, FileNotFoundError):
        return False
    return all(intact(ws, result["tables"][name]) for name in ("selection", "scores"))


def refs_of(result: dict[str, Any]) -> tuple[DatasetRef, ...]:
    """The data sets of a published result."""
    names = DatasetRef.model_fields
    return tuple(DatasetRef(**{k: v for k, v in d.items() if k in names}) for d in result["datasets"])


def changes(ws: Workspace, before: Sequence[DatasetRef], now: Sequence[DatasetRef]) -> dict[str, int]:
    """How many rows of the pool and of the targets came and went, as facts of the run."""
    found: dict[str, int] = {}
    for role, name in (("pool", "rows"), ("target", "targets")):
        ids = [
            [version_rows(ws, ref) for ref in refs if ref.role == role] or [np.empty(0, np.int64)]
            for refs in (before, now)
        ]
        old, new = (np.concatenate(side) for side in ids)
        found[f"refresh_new_{name}"] = len(np.setdiff1d(new, old))
        found[f"refresh_removed_{name}"] = len(np.setdiff1d(old, new))
    return found


def going_on(problem: Problem, earlier: dict[str, Any]) -> tuple[Refresh | None, Decision | None]:
    """From which design a refresh goes on; else None and what is decided thereby.

    problem: with the function's state; its own `refresh` does not matter.
    """
    if problem.all_exact:
        return None, Decision("kept", "every value is exact: nothing is estimated")
    m = earlier["matrix"]
    if m["keys"].get("state") != problem.keys.state:
        return None, Decision(
            "retrained", "the function was prepared on the changed pool, so its values are new"
        )
    if m["estimator"] is None:
        return None, Decision("retrained", "the previous run had no estimator: every value was exact")
    try:
        design = load_design(problem.ws, problem.family(), m["design_key"])
    except IntegrityError as e:
        return None, Decision("retrained", f"labels are drawn anew: {e}")
    if not _labels_left(problem, design):
        return None, Decision("retrained", "no labelled row or target is left: labels are drawn anew")
    size = problem.config.refresh.audit_of(design.ref.pairs + problem.config.influence.audit_pairs)
    refs = refs_of(earlier)
    return Refresh(previous=earlier["run_id"], datasets=refs, design=design.ref.key, audit_pairs=size), None


def _labels_left(problem: Problem, design: StoredDesign) -> bool:
    """Whether any labelled pair of `design` is among the rows and columns that are there now."""
    if design.kind == "scattered":
        return bool(len(design.pairs_among(problem.rows, problem.columns)[0]))
    rows, columns = np.isin(design.label_rows, problem.rows), np.isin(design.label_columns, problem.columns)
    return bool(rows.any() and columns.any())


def ruling(problem: Problem, plan: ExactPlan, check: dict[str, Any], before: str | None) -> Holding:
    """What the rule says of the estimator that `check` (of `assess_estimator`) is about.

    problem: of a refresh; before: the gate's verdict in the previous run.
    """
    pairs = check["pairs"]
    rows, columns = (np.array([p[f"{side}_content"] for p in pairs], np.int64) for side in ("row", "column"))
    settings = problem.config.refresh
    return holding(
        np.array([p["exact"] for p in pairs], np.float64),
        np.array([p["predicted"] for p in pairs], np.float64),
        _unknown(rows, columns, problem.known),
        _unknown(rows, columns, (plan.design.all_rows, plan.design.all_columns)),
        _groups(problem, plan, rows, columns),
        (before, check["verdict"]["level"]),
        check["verdict"]["reason"],
        level=settings.level,
        minimum=settings.minimum_new,
    )


def _unknown(rows: Int64, columns: Int64, known: tuple[Int64, Int64]) -> Bool:
    """Which pairs [k] touch a row or a column that is not among `known` ones."""
    out: Bool = ~(np.isin(rows, known[0]) & np.isin(columns, known[1]))
    return out


def _groups(problem: Problem, plan: ExactPlan, rows: Int64, columns: Int64) -> Int64:
    """A number per pair [k], of its row; of its column where only that is new."""
    sides = (
        (rows, problem.known[0], plan.design.all_rows),
        (columns, problem.known[1], plan.design.all_columns),
    )
    new_row, new_column = (~(np.isin(ids, known) & np.isin(ids, drawn)) for ids, known, drawn in sides)
    return groups(rows, columns, new_row, new_column)


def extend_labels(problem: Problem, design: StoredDesign) -> StoredDesign | None:
    """`design` with labels for the rows and columns that came after it, stored; None where there are none.

    At the density of the first draw among the pairs of what is new: of a block, the same share of new rows
    and of new columns; of scattered pairs, as many as the design has per pair that it was drawn from; at
    least `refresh.minimum_labels`. No label goes.
    """
    new = tuple(ids[~np.isin(ids, of)] for ids, of in _sides(problem, design.all_rows, design.all_columns))
    old = tuple(ids[np.isin(ids, of)] for ids, of in _sides(problem, design.all_rows, design.all_columns))
    seed, minimum = problem.config.seed, problem.config.refresh.minimum_labels
    if design.kind == "scattered":
        density = len(design.pair_rows) / (len(design.all_rows) * len(design.all_columns))
        r, k = added_pairs((new[0], new[1]), (old[0], old[1]), density, minimum, seed)
        added = Drawn(np.unique(r), np.unique(k), "scattered", r, k)
    else:
        here = [ids[np.isin(ids, of)] for ids, of in _sides(problem, design.label_rows, design.label_columns)]
        shares = (
            len(design.label_rows) / len(design.all_rows),
            len(design.label_columns) / len(design.all_columns),
        )
        added = Drawn(*added_block((new[0], new[1]), (here[0], here[1]), shares, minimum, seed))
    if not len(added.rows) and not len(added.columns):
        return None
    return extend_design(
        problem.ws, problem.family(), design, problem.rows, problem.columns, added, problem.valued
    )


def _sides(problem: Problem, rows: Int64, columns: Int64) -> list[tuple[Int64, Int64]]:
    return [(problem.rows, rows), (problem.columns, columns)]


def keep_design(problem: Problem, key: str) -> None:
    """Let every later run on these rows and columns use the design under `key`."""
    note_design(problem.ws, problem.family(), problem.rows, problem.columns, key)


def subset_moves(ws: Workspace, before: dict[str, Any], selection: str) -> dict[str, int]:
    """How many rows entered and left the subset, as facts; selection: path of the present table."""
    paths = before["tables"]["selection"], selection
    old, new = (pq.read_table(ws.root / p, columns=["train_id"])["train_id"].to_numpy() for p in paths)
    return {
        "refresh_entered": len(np.setdiff1d(new, old)),
        "refresh_left": len(np.setdiff1d(old, new)),
    }
