"""What a pool row is worth: its value for every target task, its place there, the targets it helps most."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nncift_core.pipeline.explain_objective import Stored
from nncift_core.pipeline.explain_row import Found, named
from nncift_core.pipeline.matrix import open_matrix
from nncift_core.store.files import verify
from nncift_core.store.matrix import RowBlock

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

BEST = 5
# Scores that differ by less than this share of their spread differ by rounding.
ROUNDING = 1e-4


class RowValues:
    """Influence of one row on every column; values that `store_matrix` left out are computed."""

    def __init__(self, stored: Stored, row: Found) -> None:
        self.stored, self.row = stored, row
        matrix = stored.result["matrix"]
        contents = np.array([row.content])
        self.block: RowBlock = open_matrix(stored.problem, stored.ref, rows=[contents]).block(contents)
        self.half = matrix.get("half_width")
        self.estimates = "estimated" if matrix.get("learned", True) else "baseline"

    @property
    def of_targets(self) -> Float32:
        """Raw influence on every target row, [N]."""
        found: Float32 = self.block.values[0, self.stored.problem.column_of_target]
        return found

    @property
    def exact_pairs(self) -> int:
        """How many of the row's pairs with distinct target contents are exact."""
        return int(self.block.exact.sum())

    def pair(self, target: int) -> dict[str, Any]:
        """influence, lower, upper (90 % interval; the value itself where it is exact, None where there is
        none) and origin of one pair; target: index of a target row."""
        at = int(self.stored.problem.column_of_target[target])
        value, exact = float(self.block.values[0, at]), bool(self.block.exact[0, at])
        half = 0.0 if exact else self.half
        return {
            "influence": value,
            "lower": None if half is None else value - half,
            "upper": None if half is None else value + half,
            "origin": "exact" if exact else self.estimates,
        }

    def best(self, targets: Int64) -> Int64:
        """Of target rows (indices), those that the row helps most, one for each text, best first: at most
        `BEST`."""
        columns = self.stored.problem.column_of_target[targets]
        _, first = np.unique(columns, return_index=True)
        distinct = targets[np.sort(first)]
        order = np.argsort(-self.of_targets[distinct], kind="stable")
        found: Int64 = distinct[order[:BEST]]
        return found


def target_rows(stored: Stored, targets: Int64) -> list[dict[str, Any]]:
    """Target rows by index, as `explain_row.named`, with dataset, in that order."""
    found, start = {}, 0
    for dataset in stored.problem.targets:
        here = targets[(targets >= start) & (targets < start + len(dataset.content_ids))]
        for k, one in zip(here.tolist(), named(dataset, here - start), strict=True):
            found[k] = {**one, "dataset": dataset.ref.dataset}
        start += len(dataset.content_ids)
    return [found[k] for k in targets.tolist()]


def values_by_task(stored: Stored, row: Found, values: RowValues) -> tuple[list[dict[str, Any]], list[str]]:
    """One entry per target task, and what a reader must know of them.

    Keys of an entry: task, variant ("mean" over the task's target rows, or "value" of a pointwise function),
    score (as the run stored it), origin, rank (1: highest of the pool), of, percentile (share of the other
    pool rows below, ties counted half, in %), best (the target rows helped most: as `target_rows` with
    `RowValues.pair`), lower and upper (pointwise: of the value).
    """
    path = stored.ws.root / str(stored.result["tables"]["scores"])
    verify(path)
    problem = stored.problem
    told, moved = [], False
    for number, task in enumerate(problem.task_names):
        table = pq.read_table(path, filters=pc.field("task") == task)
        own = table.filter(pc.equal(table["train_id"], row.example_id)).to_pylist()[0]
        scores = table["score"].to_numpy()
        entry = {"task": task, "variant": own["variant"], "score": own["score"], "origin": own["origin"]}
        entry |= place(scores, own["score"])
        targets = np.flatnonzero(problem.task_of_target == number)
        if problem.config.pointwise:
            pair = values.pair(0)
            entry |= {"lower": pair["lower"], "upper": pair["upper"], "best": []}
            now = pair["influence"]
        else:
            best = values.best(targets)
            pairs = [values.pair(int(t)) for t in best]
            entry["best"] = [{**t, **p} for t, p in zip(target_rows(stored, best), pairs, strict=True)]
            now = float(values.of_targets[targets].mean())
        moved |= abs(now - own["score"]) > ROUNDING * float(np.ptp(scores))
        told.append(entry)
    notes = [
        "values of this row were measured after this run chose: they are shown as they are known now, "
        "score and rank as they were"
    ]
    return told, notes if moved else []


def place(scores: Float64, own: float) -> dict[str, Any]:
    """rank (1: the highest), of, and percentile (share of the others below, ties counted half, in %; None for
    a single one)."""
    above, equal = int((scores > own).sum()), int((scores == own).sum()) - 1
    others = len(scores) - 1
    below = others - above - equal
    percentile = 100 * (below + equal / 2) / others if others else None
    return {"rank": above + 1, "of": len(scores), "percentile": percentile}
