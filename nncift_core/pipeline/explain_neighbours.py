"""Rows of the pool that lie near one row by the cosine of their embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.pipeline.explain_objective import Stored
from nncift_core.pipeline.explain_row import Found, named

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

NEAR = 0.95
NEIGHBOURS, SHOWN = 5, 20


def neighbours(stored: Stored, row: Found, ranks: dict[int, int]) -> tuple[dict[str, Any] | None, list[str]]:
    """The nearest chosen rows and the near duplicates of a row, by stored embeddings of prompt and response.

    Keys: bound (cosine from which a row with another text counts as a near duplicate), near_duplicates (as
    `named`, with cosine, nearest first, at most 20), near_duplicates_in_all, nearest_chosen (the same of the
    5 nearest chosen rows with another text), compared (distinct texts). One row stands for its copies: a
    chosen one where there is one. None where the run stored no embedding of the row; the notes say so.
    """
    pool, store = stored.problem.pool, stored.problem.vectors("row")
    if len(store.missing(np.array([row.content]))):
        return None, ["the run needed no embeddings, so near duplicates and neighbours are not known"]
    contents, cosines, missing = _cosines(stored, row.content)
    stands = _representatives(pool.content_ids, pool.example_ids, ranks)
    others = contents != row.content
    order = np.argsort(-cosines, kind="stable")
    order = order[others[order]]
    near = order[cosines[order] >= NEAR]
    chosen = [k for k in order.tolist() if int(pool.example_ids[stands[int(contents[k])]]) in ranks]

    def told(picked: Any) -> list[dict[str, Any]]:
        rows = named(pool, [stands[int(contents[k])] for k in picked], ranks)
        return [{**one, "cosine": float(cosines[k])} for one, k in zip(rows, picked, strict=True)]

    notes = [f"{missing:,} texts of the pool have no stored embedding and were not compared"]
    return {
        "bound": NEAR,
        "near_duplicates": told(near[:SHOWN].tolist()),
        "near_duplicates_in_all": len(near),
        "nearest_chosen": told(chosen[:NEIGHBOURS]),
        "compared": len(contents) - 1,
    }, notes if missing else []


def _cosines(stored: Stored, content: int) -> tuple[Int64, Float32, int]:
    """Contents of the pool [n] and their cosine to one, block by block; how many have no embedding."""
    pool, store = stored.problem.pool, stored.problem.vectors("row")
    own = store.load(np.array([content]))[0]
    own = own / max(float(np.linalg.norm(own)), 1e-12)
    found, cosines, missing = [], [], 0
    for shard in pool.shards():
        absent = store.missing(shard)
        here = shard[~np.isin(shard, absent)]
        missing += len(absent)
        if not len(here):
            continue
        vectors = store.load(here)
        length = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
        found.append(here)
        cosines.append((vectors @ own / length).astype(np.float32))
    return np.concatenate(found), np.concatenate(cosines), missing


def _representatives(contents: Int64, examples: Int64, ranks: dict[int, int]) -> dict[int, int]:
    """By content, the index of the row that stands for it: its best-ranked chosen row, else its first."""
    stands: dict[int, int] = {}
    for i, (content, example) in enumerate(zip(contents.tolist(), examples.tolist(), strict=True)):
        rank = ranks.get(example)
        before = stands.get(content)
        known = None if before is None else ranks.get(int(examples[before]))
        if before is None or (rank is not None and (known is None or rank < known)):
            stands[content] = i
    return stands
