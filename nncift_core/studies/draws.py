"""Drawing labels from a matrix that is known as a whole, by the designs of a run."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.label_sizes import Costs, Kind, label_counts
from nncift_core.estimator.labels import block_of, scattered_pairs

Int64 = npt.NDArray[np.int64]

DESIGNS = ("block", "scattered", "all-targets")


def draw(design: str, M: int, N: int, u: float, seed: int, costs: Costs | None = None) -> tuple[Int64, Int64]:
    """Labelled pairs (i [k], j [k]) of a matrix [M, N], in ascending order of i, then j.

    design: "block" (u of the rows x u of the columns), "scattered" or "all-targets", at the price of that
    block under `costs` (default: of the same number of pairs); see `estimator.label_sizes`.
    Raises ValueError for an unknown design or u outside (0, 1].
    """
    if design not in DESIGNS:
        raise ValueError(f"no label design {design!r}; there are {', '.join(DESIGNS)}")
    counts = label_counts(cast(Kind, design), M, N, u, costs or Costs())
    rows, columns = np.arange(M, dtype=np.int64), np.arange(N, dtype=np.int64)
    if counts.kind == "scattered":
        i, j = scattered_pairs(rows, columns, counts.pairs, seed)
        order = np.lexsort((j, i))
        return i[order], j[order]
    block = block_of(rows, columns, counts.rows, counts.columns, seed)
    i, j = np.sort(block.rows), np.sort(block.columns)
    return np.repeat(i, len(j)), np.tile(j, len(i))
