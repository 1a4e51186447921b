"""Why a pool row was chosen, or why not, under a rule that ranks rows by score."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.hashing import hash_rank
from nncift_core.pipeline.choose import read_choice
from nncift_core.pipeline.explain_objective import Stored
from nncift_core.pipeline.explain_row import Found, named
from nncift_core.selection import RULES

Int64 = npt.NDArray[np.int64]


def by_score(stored: Stored, row: Found, ranks: dict[int, int]) -> dict[str, Any]:
    """Top-k: the row's score against the cut.

    Keys: place (1: the highest score of the pool), places, score, cut_off (the lowest chosen score), tied
    (other rows with the same score), and for a chosen row: gain (its score) and replaced_by (the first row
    below the cut: as `named`, with score and distance, how far it lies below this row; None where all were
    chosen); for another row: last_chosen (the row at the cut, with score) and rise (by how much the score
    would have to rise to reach the cut; with 0 the tie fell the other way).
    """
    problem, pool = stored.problem, stored.problem.pool
    scores, order, _ = read_choice(problem, stored.result["tables"])
    ties = hash_rank(pool.example_ids, problem.config.seed, "tie")
    ranked = RULES["top-k"].select(scores, len(scores), ties).order
    own, chosen = float(scores[row.index]), row.example_id in ranks
    told: dict[str, Any] = {
        "place": int(np.flatnonzero(ranked == row.index)[0]) + 1,
        "places": len(scores),
        "score": own,
        "cut_off": float(scores[order].min()),
        "tied": int((scores == scores[row.index]).sum()) - 1,
    }
    if not chosen:
        last = _with_score(stored, int(order[-1]), scores, ranks)
        return told | {"last_chosen": last, "rise": told["cut_off"] - own}
    told |= {"gain": own, "replaced_by": None}
    below = [int(i) for i in ranked if int(pool.example_ids[i]) not in ranks][:1]
    if below:
        first = _with_score(stored, below[0], scores, ranks)
        told["replaced_by"] = {**first, "distance": own - first["score"]}
    return told


def _with_score(
    stored: Stored, index: int, scores: npt.NDArray[Any], ranks: dict[int, int]
) -> dict[str, Any]:
    return {**named(stored.problem.pool, [index], ranks)[0], "score": float(scores[index])}
