"""What reports and queries want of the whole matrix, collected in the pass that scores the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nncift_core.estimator.reductions import Reduced, Reduction
from nncift_core.influence.contract import Float32
from nncift_core.pipeline.problem import Problem

Int64 = npt.NDArray[np.int64]

# Best pool rows that are kept of every target row.
BEST = 16


@dataclass(frozen=True, eq=False)
class Overview:
    """matrix: of distinct pool rows x target rows, its `top_rows` as pool row numbers, its exact values those
    that are marked."""

    matrix: Reduced


class OverviewCollector:
    """Collects `Overview` from blocks of distinct pool rows."""

    def __init__(self, rows: int, columns: int) -> None:
        # Scores by task are the function's own business (`aggregate`).
        self._reduction = Reduction(rows, np.zeros(columns, np.int64), k=BEST)
        self._numbers: list[Int64] = []
        self._done = 0

    def add(self, rows: Int64, values: Float32, exact: npt.NDArray[np.bool_]) -> None:
        """Pool row numbers [r], their values [r, N] and which of these are exact [r, N]."""
        if not len(rows):
            return
        self._reduction.add(self._done, 0, np.ascontiguousarray(values), exact)
        self._numbers.append(rows)
        self._done += len(rows)

    def result(self) -> Overview:
        """What was collected. Raises ValueError when nothing was."""
        found = self._reduction.result()
        numbers = np.concatenate([*self._numbers, np.array([-1])])
        found.top_rows[...] = numbers[found.top_rows]
        return Overview(found)


def histogram_table(run_id: str, problem: Problem, overview: Overview, origin: str) -> pa.Table:
    """View `influence_histogram`: pairs of distinct pool rows by value, exact ones and those of `origin`
    apart; empty bins are left out."""
    matrix = overview.matrix
    parts = (("exact", matrix.marked), (origin, matrix.counts - matrix.marked))
    rows = [
        (name, float(matrix.edges[b]), float(matrix.edges[b + 1]), int(counts[b]))
        for name, counts in parts
        for b in np.flatnonzero(counts)
    ]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 4
    types = (pa.string(), pa.float64(), pa.float64(), pa.int64())
    named = zip(("origin", "from_value", "to_value", "pairs"), columns, types, strict=True)
    return _headed(run_id, problem, {name: pa.array(list(x), t) for name, x, t in named}, len(rows))


def best_table(run_id: str, problem: Problem, overview: Overview) -> pa.Table:
    """View `influence_best`: the `BEST` pool rows of highest influence on every target row, best first; empty
    for a pointwise function."""
    top = overview.matrix.top_rows if not problem.config.pointwise else overview.matrix.top_rows[:0]
    target, rank = np.nonzero(top >= 0)
    return _headed(
        run_id,
        problem,
        {
            "target_id": pa.array(_target_ids(problem)[target]),
            "rank": pa.array(rank + 1),
            "train_id": pa.array(problem.pool.example_ids[top[target, rank]]),
            "influence": pa.array(overview.matrix.top_values[target, rank].astype(np.float64)),
        },
        len(target),
    )


def _target_ids(problem: Problem) -> Int64:
    parts = [] if problem.config.pointwise else [d.example_ids for d in problem.targets]
    return np.concatenate([*parts, np.empty(0, np.int64)])


def _headed(run_id: str, problem: Problem, columns: dict[str, pa.Array], n: int) -> pa.Table:
    head = {"run_id": run_id, "function": problem.config.influence.function}
    return pa.table({**{k: pa.array([v] * n, pa.string()) for k, v in head.items()}, **columns})
