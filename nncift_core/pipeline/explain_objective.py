"""The objective of a finished run again, from what the run stored: for `nncift explain` and `nncift diff`.

Influence is read by blocks of rows and never held whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from nncift_core.errors import UserError
from nncift_core.pipeline.choose import selected_rows
from nncift_core.pipeline.matrix import open_matrix, scaled_tiles
from nncift_core.pipeline.problem import Problem
from nncift_core.pipeline.recompute import problem_of
from nncift_core.selection import RULES, NonNegative, TileRows
from nncift_core.selection.approximate import replay
from nncift_core.selection.problem import Objective, as_problem
from nncift_core.selection.problem import Problem as Coverage
from nncift_core.selection.rules import Rule
from nncift_core.store.files import verify
from nncift_core.store.references import EstimatorRef
from nncift_core.store.runs import read_result
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# Bytes of similarity held at one time.
MEMORY = 64 << 20


@dataclass(frozen=True, eq=False)
class Stored:
    """A finished valuation: its published result, its problem, and the estimator of what is not exact."""

    ws: Workspace
    run_id: str
    result: dict[str, Any]
    problem: Problem
    ref: EstimatorRef | None

    @classmethod
    def open(cls, ws: Workspace, run_id: str) -> Stored:
        """Raises UserError for a run without a matrix, or of a version that recorded too little."""
        result = read_result(ws, run_id)
        if result is None or result.get("kind") is not None:
            raise UserError(f"run {run_id} has no influence matrix", field="--run", mend="Name a valuation.")
        problem, ref = problem_of(ws, run_id)
        return cls(ws, run_id, result, problem, ref)

    @property
    def facts(self) -> dict[str, Any]:
        """What the run says of itself."""
        facts: dict[str, Any] = self.result["facts"]
        return facts

    @property
    def rule(self) -> Rule:
        """The selection rule."""
        return RULES[self.problem.config.resolve_rule()]

    @property
    def scaling(self) -> NonNegative:
        """How the run made influence non-negative for its rule. Raises UserError where no rule did."""
        if "scaled_from" not in self.facts:
            raise UserError(f"run {self.run_id} scaled no values", field="--run", mend="Run that job again.")
        return NonNegative(*self.facts["scaled_from"])

    def order(self) -> Int64:
        """Indices of the chosen pool rows [k], best first; raises IntegrityError for a lost table."""
        path = str(self.result["tables"]["selection"])
        verify(self.ws.root / path)
        return selected_rows(self.problem, path)

    def gains(self) -> Float64:
        """What every pick added when it was made, [k]."""
        path = self.ws.root / str(self.result["tables"]["selection"])
        table = pq.read_table(path, columns=["rank", "gain"]).sort_by("rank")
        found: Float64 = table["gain"].to_numpy()
        return found


def coverage(stored: Stored, rows: Int64 | None = None, targets: Int64 | None = None) -> Coverage:
    """The facility location objective that the run maximised, over some pool rows and some target rows.

    rows, targets: indices of pool rows and of target rows, all when None; they become the candidates and the
    represented items, in that order. Gains are in units of influence scaled to 0..1 by the extremes of the
    run's whole matrix. Raises UserError for a run that selected by scores.
    """
    problem, config = stored.problem, stored.problem.config
    rows = np.arange(len(problem.pool.content_ids)) if rows is None else rows
    targets = np.arange(len(problem.column_of_target)) if targets is None else targets
    given: dict[str, Any] = {name: getattr(config.selection, name) for name in stored.rule.parameters}
    existing = None
    if stored.rule.existing:
        existing = _similarity(stored, problem.of_role("existing")[0].content_ids, targets)
    return as_problem(
        _similarity(stored, problem.pool.content_ids[rows], targets),
        len(rows),
        cast(Objective, config.resolve_rule()),
        given.get("eta"),
        existing,
        given.get("nu"),
        0.0,
        MEMORY,
    )


def _similarity(stored: Stored, contents: Int64, targets: Int64) -> TileRows:
    """Scaled influence of `contents` on target rows, read when it is asked for."""
    reader, columns = open_matrix(stored.problem, stored.ref), stored.problem.column_of_target[targets]
    return scaled_tiles(reader, contents, columns, stored.scaling)


def objective_of(stored: Stored, rows: Int64, targets: Int64 | None = None) -> float:
    """What the run's rule maximises, of the subset `rows` (indices of pool rows) over `targets` (all: None).

    Facility location: `selection.rules`, in units of scaled influence; whatever the order of `rows`. Top-k:
    the sum of the scores, a score being the best task's mean over the targets at hand. 0 for no rows, or the
    objective's value there.
    """
    if not len(rows):
        return 0.0
    if stored.rule.reads == "matrix":
        found = coverage(stored, rows, targets)
        every = np.arange(len(rows))
        gains = replay(found.rows, every, found.cover, found.modular, MEMORY)
        return found.empty + float(gains.sum())
    return float(_scores(stored, rows, targets).sum())


def _scores(stored: Stored, rows: Int64, targets: Int64 | None) -> Float64:
    """The best task's score of pool rows [k] over some target rows."""
    from nncift_core.influence.registry import create

    problem = stored.problem
    some = np.arange(len(problem.column_of_target)) if targets is None else targets
    tasks = np.unique(problem.task_of_target[some], return_inverse=True)[1]
    columns = problem.column_of_target[some]
    function = create(problem.config, "cpu")
    contents, at = np.unique(problem.pool.content_ids[rows], return_inverse=True)
    step = max(1, MEMORY // (4 * len(problem.columns)))
    blocks = [contents[k : k + step] for k in range(0, len(contents), step)]
    best = [
        function.aggregate(block.values[:, columns], tasks).max(axis=1)
        for block in open_matrix(problem, stored.ref, rows=blocks)
    ]
    found: Float64 = np.concatenate(best).astype(np.float64)[at]
    return found
