"""The contract of an influence function: does pool row i help target row j?

A new function is one file that fills this contract and one line in `registry.py`; sharding,
caching, retries, estimation, audit and selection come with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Rows:
    """A batch of texts (pool rows or target rows), one per distinct content.

    content_ids [n]; prompts, responses: n texts; embeddings [n, d], L2-normalised, present when
    the function's `needs` names "embedding".
    """

    content_ids: Int64
    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    embeddings: Float32 | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, index: npt.NDArray[Any]) -> Rows:
        """The rows at `index` [k], in that order."""
        return Rows(
            self.content_ids[index],
            tuple(self.prompts[i] for i in index),
            tuple(self.responses[i] for i in index),
            None if self.embeddings is None else self.embeddings[index],
        )


@dataclass(frozen=True)
class CostModel:
    """What one unit of work costs, in forward passes of the model: drives label design and forecasts."""

    per_pair: float = 0.0
    per_row: float = 0.0
    per_column: float = 0.0


@dataclass(frozen=True)
class Features:
    """Linear work of a function (gradients, say) as files; empty for functions that have none."""

    files: tuple[str, ...] = ()


class InfluenceFunction(Protocol):
    """Exact influence.

    kind: "pairwise" fills `tile` and `pairs`, "pointwise" fills `values`; needs: "embedding" when
    `Rows.embeddings` must be there; counters: what a user should hear of (truncated sequences, say).
    """

    name: str
    version: int
    kind: Literal["pairwise", "pointwise"]
    cost: CostModel
    needs: frozenset[str]
    counters: Counter[str]

    def key(self) -> str:
        """Function key (design decision 3): name, version, model, templates; no paths, no devices."""
        ...

    def prepare(self, pool: Rows, target: Rows) -> Features:
        """Linear work before any value is asked for; may be empty."""
        ...

    def tile(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        """Raw influence of every row on every column, [len(rows), len(columns)]."""
        ...

    def pairs(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        """Raw influence of rows[k] on columns[k], [len(rows)]."""
        ...

    def values(self, rows: Rows) -> Float32:
        """Value of every row, [len(rows)], for pointwise functions."""
        ...

    def aggregate(self, matrix: Float32, tasks: npt.NDArray[np.int64]) -> Float32:
        """Score of every row for every task: matrix [M, N], tasks [N] (0..T-1) -> [M, T]."""
        ...


class Pairwise:
    """What pairwise functions without linear work share."""

    kind: Literal["pairwise", "pointwise"] = "pairwise"

    def prepare(self, pool: Rows, target: Rows) -> Features:
        """Nothing to prepare."""
        return Features()

    def values(self, rows: Rows) -> Float32:
        """Raises TypeError: a pairwise function has no value per row."""
        raise TypeError(f"{type(self).__name__} is pairwise: ask for tile() or pairs()")
