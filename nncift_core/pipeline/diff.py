"""What entered and left the subset between two runs of a workspace, and why.

A row's score is its best target task's, as `selection.score` gives it. Under top-k the rows are ranked by
it. Under facility location the rank is the order of picking: a row is picked for what it adds beside those
before it, so that a changed score is a likely reason there and no proof.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nncift_core.errors import UserError
from nncift_core.pipeline.problem import Problem
from nncift_core.store.files import verify
from nncift_core.store.runs import read_result, resolve_runs
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

# Which view tells of a run that has no subset of its own.
_INSTEAD = {"prune": "pruning_summary", "compare": "compare_summary", "audit": "attribution"}

NEW, REMOVED = "new in the pool", "removed from the pool"
EXACT = "its influence is now known exactly"
ROSE, FELL = "its score rose", "its score fell"
DISPLACED, SHRANK = "displaced: others now rank higher", "displaced: the budget shrank"
MOVED_UP = "moved up as others left or the budget grew"
# Scores that differ by less than this share of their spread differ by rounding.
ROUNDING = 1e-5


@dataclass(frozen=True, eq=False)
class Chosen:
    """What a run chose by which scores.

    rank: example id -> 1 for the first pick; score: example id of every pool row -> its best task's score;
    exact: the ids whose values are all exact; origin: of the scores of the others; rule: of the selection.
    """

    run_id: str
    rank: dict[int, int]
    score: dict[int, float]
    exact: frozenset[int]
    origin: str
    rule: str

    @classmethod
    def read(cls, ws: Workspace, selection: str, scores: str, run_id: str, rule: str) -> Chosen:
        """From the run's tables of the views `selection` and `scores` (relative paths); raises IntegrityError
        for a lost or damaged one."""
        for path in (selection, scores):
            verify(ws.root / path)
        picked = pq.read_table(ws.root / selection, columns=["train_id", "rank"])
        found = pq.read_table(ws.root / scores, columns=["train_id", "score", "origin"])
        best = found.group_by("train_id").aggregate([("score", "max")])
        sure = pc.equal(found["origin"].cast("string"), "exact")
        others = pc.unique(found.filter(pc.invert(sure))["origin"].cast("string")).to_pylist()
        return cls(
            run_id,
            dict(zip(picked["train_id"].to_pylist(), picked["rank"].to_pylist(), strict=True)),
            dict(zip(best["train_id"].to_pylist(), best["score_max"].to_pylist(), strict=True)),
            frozenset(found.filter(sure)["train_id"].to_pylist()),
            str(others[0]) if others else "exact",
            rule,
        )

    @classmethod
    def of_run(cls, ws: Workspace, run: str) -> Chosen:
        """What a published run chose; run: its id, a unique prefix will do.

        Raises UserError for a run that is not there or has published nothing.
        """
        found = resolve_runs(ws, run) if run != "all" else []
        result = read_result(ws, found[0]) if found else None
        if result is None:
            raise UserError(
                f"run {run!r} has no subset to compare",
                field="RUN",
                mend="Give two run ids of the view `runs`; let a run finish first.",
            )
        if (kind := result.get("kind")) is not None:
            raise UserError(
                f"run {run!r} is of `nncift {kind}`, which is not compared run by run",
                field="RUN",
                mend=f"Ask the view {_INSTEAD[kind]} with --run all.",
            )
        tables = result["tables"]
        return cls.read(ws, tables["selection"], tables["scores"], result["run_id"], result["facts"]["rule"])

    def origin_of(self, row: int) -> str | None:
        """Where a pool row's score comes from; None for a row that is not in the pool."""
        if row not in self.score:
            return None
        return "exact" if row in self.exact else self.origin


def subset_changes(ws: Workspace, run_before: str, run_after: str) -> list[dict[str, Any]]:
    """Rows of the view `subset_changes` between two published runs (ids or unique prefixes): `changes`."""
    return changes(Chosen.of_run(ws, run_before), Chosen.of_run(ws, run_after))


def changes_since(
    problem: Problem, run_before: str, selection: str, scores: str, run_id: str
) -> list[dict[str, Any]]:
    """The same before the later run, `run_id`, is published: by its tables of the views `selection` and
    `scores` (relative paths)."""
    ws = problem.ws
    after = Chosen.read(ws, selection, scores, run_id, problem.config.resolve_rule())
    return changes(Chosen.of_run(ws, run_before), after)


def changes(before: Chosen, after: Chosen) -> list[dict[str, Any]]:
    """One row per pool row that entered the subset, by its rank, then per row that left, by the rank it had.

    change: "entered" or "left"; why: a reason, in this order: the row is new in the pool or was removed; its
    score moved and all its values are exact now; its score moved far enough; others moved. Under top-k a
    score moved far enough when the change would not have come without it, or would have come by it alone.
    """
    why = _Reasons(before, after)
    entered = sorted(after.rank.keys() - before.rank.keys(), key=after.rank.__getitem__)
    left = sorted(before.rank.keys() - after.rank.keys(), key=before.rank.__getitem__)
    moved = [(row, "entered", why.entered(row)) for row in entered]
    moved += [(row, "left", why.left(row)) for row in left]
    return [
        {
            "run_id": after.run_id,
            "previous_run": before.run_id,
            "train_id": row,
            "change": change,
            "why": reason,
            "rank_before": before.rank.get(row),
            "rank_after": after.rank.get(row),
            "score_before": before.score.get(row),
            "score_after": after.score.get(row),
            "origin_before": before.origin_of(row),
            "origin_after": after.origin_of(row),
        }
        for row, change, reason in moved
    ]


def reason(why: str) -> str:
    """The reason without the numbers behind it."""
    return why.partition(" (")[0]


def summary(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows by change and reason: change, why, rows; entered first, the commonest reason first."""
    counts = Counter((row["change"], reason(row["why"])) for row in rows)
    order = sorted(counts.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
    return [{"change": change, "why": why, "rows": n} for (change, why), n in order]


def common_scores(before: Chosen, after: Chosen) -> tuple[Float64, Float64]:
    """Scores of the rows that both pools hold, [n] each, in order of example id."""
    both = sorted(before.score.keys() & after.score.keys())
    old, new = ([chosen.score[row] for row in both] for chosen in (before, after))
    return np.array(old, np.float64), np.array(new, np.float64)


class _Reasons:
    """Why a row entered or left."""

    def __init__(self, before: Chosen, after: Chosen) -> None:
        self.before, self.after = before, after
        old, new = common_scores(before, after)
        spread = max((float(np.ptp(x)) for x in (old, new) if len(x)), default=0.0)
        self.rounding = ROUNDING * spread
        # Under other rules there is no score that would do.
        self.ranked = before.rule == after.rule == "top-k"
        self.edges = [_edge(chosen) for chosen in (before, after)]

    def entered(self, row: int) -> str:
        if row not in self.before.score:
            return NEW
        moved = self._moved(row)
        if moved and self._now_exact(row):
            return EXACT + self._numbers(row)
        (worst_before, _), (_, best_left_out) = self.edges
        needed = self.before.score[row] < best_left_out or self.after.score[row] > worst_before
        if moved > 0 and (needed or not self.ranked):
            return ROSE + self._numbers(row)
        return MOVED_UP

    def left(self, row: int) -> str:
        if row not in self.after.score:
            return REMOVED
        moved = self._moved(row)
        if moved and self._now_exact(row):
            return EXACT + self._numbers(row)
        (_, best_left_out), (worst_now, _) = self.edges
        needed = self.before.score[row] >= worst_now or self.after.score[row] < best_left_out
        if moved < 0 and (needed or not self.ranked):
            return FELL + self._numbers(row)
        budget = len(self.after.rank)
        shrank = budget < len(self.before.rank) and self.before.rank[row] > budget
        return SHRANK + f" (to {budget:,})" if shrank else DISPLACED

    def _moved(self, row: int) -> float:
        """By how much the score moved; 0 within rounding."""
        by = self.after.score[row] - self.before.score[row]
        return by if abs(by) > self.rounding else 0.0

    def _now_exact(self, row: int) -> bool:
        return row in self.after.exact and row not in self.before.exact

    def _numbers(self, row: int) -> str:
        return f" (from {self.before.score[row]:.4g} to {self.after.score[row]:.4g})"


def _edge(chosen: Chosen) -> tuple[float, float]:
    """The lowest score of a picked row, and the highest of another one."""
    picked = (chosen.score[row] for row in chosen.rank)
    others = (score for row, score in chosen.score.items() if row not in chosen.rank)
    return min(picked, default=math.inf), max(others, default=-math.inf)
