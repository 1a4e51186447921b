"""The network as sums of maxima and minima: `w relu(a + b)` with everything scaled once.

With `w' = scale * w`, `a = W1r e_i + b1` and `b = W1c e_j`,
    w' relu(a + b) = max(w' a, -w' b) + w' b     where w' > 0,
    w' relu(a + b) = min(w' a, -w' b) + w' b     where w' < 0,
so that `A = w' a` and `B = -w' b` are made once per row and column, the last term is a number per column,
units of w' = 0 drop out, and a pair costs `sum max(A, B) + sum min(A, B)` over units grouped by sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from nncift_core.estimator.network import InfluenceNetwork

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SignedNetwork:
    """influence(i, j) = sum max(A_i, B_j) + sum min(A_i, B_j) - sum B_j + offset + shift.

    A = rows W_rows^T + row_bias, B = columns W_columns^T. W_rows [units, d], row_bias [units], W_columns
    [units, d_column]; the first `positive` units take the maximum, the others the minimum.
    """

    W_rows: Float32
    row_bias: Float32
    W_columns: Float32
    positive: int
    offset: float
    shift: float

    @classmethod
    def of(cls, network: InfluenceNetwork) -> SignedNetwork:
        """The same function as `network`."""
        w = (network.scale * network.W2[0].astype(np.float64)).astype(np.float32)
        order = np.concatenate([np.flatnonzero(w > 0), np.flatnonzero(w < 0)])
        w, W1, d = w[order], network.W1[order], network.dimension
        return cls(
            W_rows=w[:, None] * W1[:, :d],
            row_bias=w * network.b1[order],
            W_columns=-w[:, None] * W1[:, d:],
            positive=int((w > 0).sum()),
            offset=network.scale * float(network.b2[0]),
            shift=network.shift,
        )

    @property
    def units(self) -> int:
        """Hidden units that matter."""
        return len(self.row_bias)
