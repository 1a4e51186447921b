"""Which rows models are trained on: random subsets, and pools without some rows. All by hash rank, so that a
row's place depends on itself and the seed alone, not on its position in the file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nncift_core.hashing import hash_rank

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def lowest(ids: Int64, k: int, seed: int, salt: str) -> Int64:
    """Indices of the k of `ids` [n] of lowest hash rank, sorted. One more id puts at most one of them out."""
    return np.sort(np.argsort(hash_rank(ids, seed, salt), kind="stable")[:k])


def keep_subsets(ids: Int64, models: int, share: float, seed: int) -> list[Int64]:
    """Indices of `models` random subsets of `ids` [M], each of `share` of them (at least 1, at most M - 1).

    More models add subsets and change none.
    """
    k = min(max(1, round(share * len(ids))), len(ids) - 1)
    return [lowest(ids, k, seed, f"audit-subset\x1f{number}") for number in range(models)]


def removals(ids: Int64, draws: int, k: int, seed: int) -> list[Int64]:
    """Indices of `draws` random sets of k of `ids` [M] to leave out."""
    return [lowest(ids, k, seed, f"audit-removal\x1f{number}") for number in range(draws)]


def top_rows(scores: Float64, k: int, ids: Int64, seed: int) -> Int64:
    """Indices of the k rows of highest score [M], sorted; ties go by hash rank of `ids` [M], not by place."""
    order = np.lexsort((hash_rank(ids, seed, "audit-tie"), -scores))
    return np.sort(order[:k])
