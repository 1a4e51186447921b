"""The contract of an influence function: does pool row i help target row j?

A new function is one file that fills this contract and one line in `nncift_core/functions.py`;
sharding, caching, retries, estimation, audit and selection come with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from nncift_core.functions import Kind

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Progress = Callable[[int], None]
Side = Literal["row", "column"]


@dataclass(frozen=True)
class Rows:
    """A batch of texts (pool rows or target rows), one per distinct content.

    content_ids [n]; prompts, responses: n texts; embeddings [n, d] (L2-normalised) and features [n, f],
    present when the function's `needs` names "embedding" or "features".
    """

    content_ids: Int64
    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    embeddings: Float32 | None = None
    features: Float32 | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, index: npt.NDArray[Any]) -> Rows:
        """The rows at `index` [k], in that order."""
        return Rows(
            self.content_ids[index],
            tuple(self.prompts[i] for i in index),
            tuple(self.responses[i] for i in index),
            None if self.embeddings is None else self.embeddings[index],
            None if self.features is None else self.features[index],
        )


@dataclass(frozen=True)
class CostModel:
    """What one unit of work costs, in forward passes over one sequence, before anything is shared.

    A backward pass counts as two forward passes. Zero: a few arithmetic operations. `nncift plan` adds
    it up, and exact shards are cut into smaller pieces where pairs cost something.
    """

    per_pair: float = 0.0
    per_row: float = 0.0
    per_column: float = 0.0


class InfluenceFunction(Protocol):
    """Exact influence.

    kind: "pairwise" fills `tile` and `pairs`, "pointwise" fills `values`.

    needs, what the function asks of the pipeline:
    "embedding": `Rows.embeddings`; "state": `fit_state` once for the pool, and `load_state` before
    anything else is asked for; "features": `features` once per row and side (sharded, cached, retried),
    and `Rows.features` in `tile` and `pairs`. Functions with "state" or "features" say in `state_share`
    on which share of the pool the state is fitted.

    counters: what a user should hear of (truncated sequences, say).
    """

    name: str
    version: int
    kind: Kind
    cost: CostModel
    needs: frozenset[str]
    counters: Counter[str]

    def key(self) -> str:
        """Function key (design decision 3): name, version, model, templates; no paths, no devices."""
        ...

    def fit_state(self, pool: Rows, folder: Path, progress: Callable[[int, int], None] | None = None) -> None:
        """One-time work on a sample of the pool (LESS: warm-up training; BM25: word counts).

        Writes files into the empty `folder`; the same rows in any order give the same state.
        progress(done, total).
        """
        ...

    def load_state(self, folder: Path) -> None:
        """Take up what `fit_state` wrote; called before `features`, `tile`, `pairs` or `values`."""
        ...

    def features(self, rows: Rows, side: Side, progress: Progress | None = None) -> Float32:
        """Linear work: what a pool row ("row") or a target row ("column") gives, [len(rows), f]."""
        ...

    def tile(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        """Raw influence of every row on every column, [len(rows), len(columns)]."""
        ...

    def pairs(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        """Raw influence of rows[k] on columns[k], [len(rows)]."""
        ...

    def values(self, rows: Rows, progress: Progress | None = None) -> Float32:
        """Value of every row, [len(rows)], for pointwise functions."""
        ...

    def aggregate(self, matrix: Float32, tasks: npt.NDArray[np.int64]) -> Float32:
        """Score of every row for every task: matrix [M, N], tasks [N] (0..T-1) -> [M, T]."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A function with `cost.per_pair` > 0 that knows how many tokens its pairs are, so that label designs
    of one price can be drawn. Optional: without it, all pairs cost alike."""

    name: str

    def token_costs(self, rows: Rows, columns: Rows) -> tuple[Float64, Float64]:
        """Tokens that the pairs of a row share, paid once per row [m], and tokens of a pair beyond these, by
        column [n]. Loads no weights."""
        ...


class _Stateless:
    """What functions without state and features share."""

    def fit_state(self, pool: Rows, folder: Path, progress: Callable[[int, int], None] | None = None) -> None:
        """Raises TypeError: there is no state."""
        raise TypeError(f"{type(self).__name__} has no state")

    def load_state(self, folder: Path) -> None:
        """Raises TypeError: there is no state."""
        raise TypeError(f"{type(self).__name__} has no state")

    def features(self, rows: Rows, side: Side, progress: Progress | None = None) -> Float32:
        """Raises TypeError: there are no features."""
        raise TypeError(f"{type(self).__name__} has no features")


class Pairwise(_Stateless):
    """Base of pairwise functions; override what `needs` names. A task's score is the mean of its columns."""

    kind: Kind = "pairwise"

    def values(self, rows: Rows, progress: Progress | None = None) -> Float32:
        """Raises TypeError: a pairwise function has no value per row."""
        raise TypeError(f"{type(self).__name__} is pairwise: ask for tile() or pairs()")

    def aggregate(self, matrix: Float32, tasks: npt.NDArray[np.int64]) -> Float32:
        """Mean over a task's columns: matrix [M, N], tasks [N] -> [M, T]."""
        return mean_by_task(matrix, tasks)


class Pointwise(_Stateless):
    """Base of pointwise functions: one value per row, whatever the target."""

    kind: Kind = "pointwise"

    def tile(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        """Raises TypeError: a pointwise function has no value per pair."""
        raise TypeError(f"{type(self).__name__} is pointwise: ask for values()")

    def pairs(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        """Raises TypeError: a pointwise function has no value per pair."""
        raise TypeError(f"{type(self).__name__} is pointwise: ask for values()")

    def aggregate(self, matrix: Float32, tasks: npt.NDArray[np.int64]) -> Float32:
        """The value itself: matrix [M, 1], tasks [1] -> [M, 1]."""
        return mean_by_task(matrix, tasks)


def mean_by_task(matrix: Float32, tasks: npt.NDArray[np.int64]) -> Float32:
    """score[i, t] = mean of influence[i, j] over the columns j of task t.

    matrix [M, N]; tasks [N], numbers 0..T-1, each with at least one column -> float32 [M, T].
    Raises ValueError for another length or a task without columns.
    """
    if tasks.shape != (matrix.shape[1],):
        raise ValueError(f"{matrix.shape[1]} columns but {len(tasks)} task numbers")
    counts = np.bincount(tasks)
    if (counts == 0).any():
        raise ValueError(f"task {int(np.argmin(counts))} has no columns")
    scores = np.empty((matrix.shape[0], len(counts)), np.float32)
    for task in range(len(counts)):
        scores[:, task] = matrix[:, tasks == task].mean(axis=1, dtype=np.float64)
    return scores
