"""Top-k: the candidates with the highest scores."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nncift_core.selection.result import Selection, as_floating, check_budget, finite_range


def top_k(scores: npt.ArrayLike, budget: int, tie_break: npt.NDArray[np.uint64] | None = None) -> Selection:
    """The `budget` candidates with the highest scores, highest first.

    scores: [candidates]. tie_break: uint64 [candidates]; equal scores go to the lowest tie_break
    (say, a hash of the row's content, which no reordering of the pool changes), then, or without
    it, to the lowest index. gains are the scores; `ties` counts picks whose score another
    candidate not yet picked shares.
    Raises ValueError for a wrong shape, a score that is not finite (named) or a wrong budget.
    """
    axes = ("candidate",)
    values = as_floating(scores, "scores", axes).astype(np.float64, copy=False)
    finite_range(values, "scores", axes)
    budget = check_budget(budget, len(values))
    if tie_break is None:
        order = np.argsort(-values, kind="stable")
    else:
        if tie_break.shape != values.shape or tie_break.dtype != np.uint64:
            raise ValueError(
                f"tie_break is {tie_break.dtype} {tie_break.shape}, but must be uint64 {values.shape}"
            )
        order = np.lexsort((tie_break, -values))
    ranked = values[order]
    tied = ranked[:-1] == ranked[1:]
    gains = ranked[:budget].copy()
    return Selection(
        order=order[:budget].astype(np.int64),
        gains=gains,
        ties=int(np.count_nonzero(tied[:budget])),
        positive=int(np.count_nonzero(gains > 0)),
        objective=float(gains.sum()),
    )
