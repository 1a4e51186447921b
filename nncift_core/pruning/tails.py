"""Do the scores agree on which rows are easiest and hardest? Overlap of the tails of every two of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.metrics import top_membership

Float64 = npt.NDArray[np.float64]


def tail_overlap(difficulty: Mapping[str, npt.NDArray[Any]], share: float) -> list[dict[str, Any]]:
    """Rows of the view `tail_overlap` without run_id: |A & B| / |A| for every ordered pair of scores.

    difficulty: shown name of a score -> [N], larger is harder; share: of the rows that make a tail,
    k = max(1, round(share N)) of them. Where values tie at the edge of a tail (forgetting counts do), its
    last places are shared out among the tied rows, and the overlap is what breaking ties at random
    gives on average; so a score overlaps with itself below 1 where it has such ties. By chance: k / N.
    Raises ValueError for a share outside (0, 1], no rows, lengths that differ or values that are no numbers.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    values = {name: np.asarray(v, np.float64) for name, v in difficulty.items()}
    n = len(next(iter(values.values()), ()))
    for name, v in values.items():
        if v.shape != (n,) or n == 0 or np.isnan(v).any():
            raise ValueError(f"{name} is {list(v.shape)} or has values that are no numbers; {n} rows wanted")
    k = max(1, round(share * n))
    rows: list[dict[str, Any]] = []
    for tail, sign in (("easy", -1.0), ("hard", 1.0)):
        members: dict[str, Float64] = {name: top_membership(sign * v, k) for name, v in values.items()}
        for a, in_a in members.items():
            for b, in_b in members.items():
                both = float(in_a @ in_b) / k
                rows.append({"tail": tail, "share": share, "score_a": a, "score_b": b, "overlap": both})
    return rows
