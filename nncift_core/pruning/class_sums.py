"""Sums of embeddings over classes, in blocks: a million rows need no second copy of themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nncift_core.classification.contract import Float32, Float64, Int64

# Numbers of one block, 8 MB in float64.
_NUMBERS = 1 << 20


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of `rows` rows, in order; a block of rows of `width` numbers in float64 is of some megabytes."""
    size = max(1, _NUMBERS // max(1, width))
    return (slice(at, min(at + size, rows)) for at in range(0, rows, size))


def class_sums(x: Float32 | Float64, labels: Int64, n_classes: int) -> Float64:
    """Sum of the rows x [N, d] of every class 0..n_classes-1, [n_classes, d]; labels [N]. 0 for an empty one.

    Rows are added in their order, whatever the blocks.
    """
    sums = np.zeros((n_classes, x.shape[1]))
    for part in blocks(len(x), x.shape[1]):
        np.add.at(sums, labels[part], x[part].astype(np.float64))
    return sums
