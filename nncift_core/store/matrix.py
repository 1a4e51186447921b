"""The completed matrix as a stream of row blocks: exact values where they exist, estimates elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nncift_core.errors import RunError
from nncift_core.store.segments import SegmentStore

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RowBlock:
    """Some rows of the matrix: content ids [r], values [r, N], which of them are exact [r, N]."""

    row_ids: Int64
    values: Float32
    exact: Bool


class ExactValues(Protocol):
    """Exact values by content pair, as far as they are known."""

    def fill(self, row_ids: Int64, column_ids: Int64, out: Float32) -> None:
        """Write every known value into `out` [r, c]; the rest stays."""

    def coverage(self, row_ids: Int64, column_ids: Int64) -> Bool:
        """Which pairs are known, [r, c]."""


class MatrixReader:
    """Streams [M, N] in blocks of rows. Estimates are stored ones, or what `predict` makes of row ids [r]
    ([r, N]) when their block is read; neither when everything is exact."""

    def __init__(
        self,
        exact: ExactValues,
        estimates: SegmentStore | None,
        shards: Sequence[Int64],
        columns: Int64,
        predict: Callable[[Int64], Float32] | None = None,
    ) -> None:
        self.exact, self.estimates, self.predict = exact, estimates, predict
        self.shards, self.columns = shards, columns

    def __iter__(self) -> Iterator[RowBlock]:
        for row_ids in self.shards:
            yield self.block(row_ids)

    def block(self, row_ids: Int64) -> RowBlock:
        """Values of `row_ids` [r] against every column; raises RunError when a pair has no value."""
        if self.predict is not None:
            values = self.predict(row_ids)
        else:
            values = np.full((len(row_ids), len(self.columns)), np.nan, np.float32)
        if self.estimates is not None:
            self.estimates.fill(row_ids, self.columns, values)
        self.exact.fill(row_ids, self.columns, values)
        holes = int(np.isnan(values).sum())
        if holes:
            raise RunError(
                f"{holes} pairs have neither an exact value nor an estimate; run again to fill them"
            )
        return RowBlock(row_ids, values, self.exact.coverage(row_ids, self.columns))
