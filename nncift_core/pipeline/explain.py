"""Everything that a finished run knows of one row: for `nncift explain`."""

from __future__ import annotations

from typing import Any

from nncift_core.errors import UserError
from nncift_core.pipeline.explain_coverage import by_coverage
from nncift_core.pipeline.explain_lineage import origins
from nncift_core.pipeline.explain_neighbours import neighbours
from nncift_core.pipeline.explain_objective import Stored
from nncift_core.pipeline.explain_prune import explain_pruned
from nncift_core.pipeline.explain_row import Found, described, find_row
from nncift_core.pipeline.explain_selection import by_score
from nncift_core.pipeline.explain_values import RowValues, values_by_task
from nncift_core.store.runs import read_result, resolve_runs
from nncift_core.store.workspace import Workspace


def explain(ws: Workspace, asked: str, run: str | None = None) -> dict[str, Any]:
    """Why a row was chosen by a run, or why not, JSON-ready.

    asked: an example_id, a source_id that is unique, or "row:N" (row_number, from 0); run: an id or its
    beginning, the latest finished run when None.

    Keys of a valuation: run (run_id, kind: "pairwise" or "pointwise", function, rule, objective in words,
    chosen, pool_rows); row (`explain_row.described`); values (one entry per target task,
    `explain_values.values_by_task`); choice (chosen, rank, of, and the rest as `explain_selection.by_score`
    or `explain_coverage.by_coverage` tell it); neighbours (`explain_neighbours.neighbours`, or None); lineage
    (`explain_lineage.origins`); notes (what limits the answer).

    Keys of a prune run: run and row as above; scores (score, variant, origin, value, of, percentile of the
    value, hard_end: which end of the values is hard, difficulty: percentile from easy to hard); subset (kept,
    rank, of, by: "config" or "recommendation", the deciding score, variant and value, edge: that score of the
    last row that was kept; None without a subset or for a new row); suspect (rank, given, predicted,
    probability, consensus, agreement; None where the label looks right or was not listed); suspects,
    suspects_left_out (how many labels look wrong, and how many of them are not listed); notes.

    Raises UserError for what names no row of the run or several, and for no finished run, or several.
    """
    found = resolve_runs(ws, run, kinds=(None, "prune"))
    if not found:
        raise UserError(
            "no finished valuation or prune run here" if run is None else f"run {run} has no result",
            field="--run",
            mend="Let one finish first, or name one of the view runs.",
        )
    if len(found) > 1:
        raise UserError(
            f"{len(found)} finished runs are meant", field="--run", mend="Name one run of the view runs."
        )
    result = read_result(ws, found[0])
    assert result is not None
    if result.get("kind") == "prune":
        return explain_pruned(ws, result, asked)
    stored = Stored.open(ws, found[0])
    problem = stored.problem
    others = [d for d in problem.datasets if d.ref.role != "pool"]
    row = find_row([problem.pool], others, asked)
    values = RowValues(stored, row)
    order = stored.order()
    ranks = {int(problem.pool.example_ids[i]): k for k, i in enumerate(order.tolist(), 1)}
    by_task, moved = values_by_task(stored, row, values)
    choice, doubts = _choice(stored, row, values, ranks)
    near, unknown = neighbours(stored, row, ranks)
    return {
        "run": {
            "run_id": stored.run_id,
            "kind": "pointwise" if problem.config.pointwise else "pairwise",
            "function": problem.config.influence.function,
            "rule": problem.config.resolve_rule(),
            "objective": stored.rule.objective,
            "chosen": len(order),
            "pool_rows": len(problem.pool.content_ids),
        },
        "row": described(row, ranks),
        "values": by_task,
        "choice": choice,
        "neighbours": near,
        "lineage": origins(stored, row, values),
        "notes": [*moved, *doubts, *unknown],
    }


def _choice(
    stored: Stored, row: Found, values: RowValues, ranks: dict[int, int]
) -> tuple[dict[str, Any], list[str]]:
    rank = ranks.get(row.example_id)
    common = {"chosen": rank is not None, "rank": rank, "of": len(ranks)}
    if stored.rule.reads == "scores":
        return {**common, **by_score(stored, row, ranks)}, []
    told, notes = by_coverage(stored, row, values, ranks)
    return {**common, **told}, notes
