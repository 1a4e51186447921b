"""The completed matrix as a stream of row blocks: exact values where they exist, estimates elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


class MatrixReader:
    """Streams [M, N] in blocks of rows; `estimates` is None when everything is exact."""

    def __init__(
        self, exact: SegmentStore, estimates: SegmentStore | None, shards: Sequence[Int64], columns: Int64
    ) -> None:
        self.exact, self.estimates = exact, estimates
        self.shards, self.columns = shards, columns

    def __iter__(self) -> Iterator[RowBlock]:
        for row_ids in self.shards:
            yield self.block(row_ids)

    def block(self, row_ids: Int64) -> RowBlock:
        """Values of `row_ids` [r] against every column; raises RunError when a pair has no value."""
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
