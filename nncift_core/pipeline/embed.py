"""Embedding what has no vector yet, in shards of blocks: examples, and for estimators also responses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nncift_core.config import Config
from nncift_core.encoders import Encoder, example_text, prefix_of
from nncift_core.estimator.contract import COSINE, EMBEDDING, RESPONSE
from nncift_core.influence.contract import Rows, Side
from nncift_core.influence.registry import implementation
from nncift_core.pipeline.estimator_features import groups_of
from nncift_core.pipeline.labelling import label_fraction
from nncift_core.pipeline.problem import Problem
from nncift_core.store.vectors import VectorStore

PIECE = 512
Part = Literal["example", "response"]


@dataclass(frozen=True)
class EmbedShard:
    """Contents of one block, of rows or of columns, that lack a vector of the whole example or of its
    response alone."""

    name: str
    side: Side
    content_ids: tuple[int, ...]
    part: Part = "example"


def embedded_parts(config: Config) -> tuple[Part, ...]:
    """What later stages read vectors of: the functions that say so, else estimators and baselines."""
    groups = groups_of(config) if label_fraction(config) < 1 else ()
    wanted: dict[Part, bool] = {
        "example": not {EMBEDDING, COSINE}.isdisjoint(groups) or "embedding" in implementation(config).needs,
        "response": RESPONSE in groups,
    }
    return tuple(part for part, needed in wanted.items() if needed)


def embeddings_needed(config: Config) -> bool:
    """Whether any later stage reads embeddings."""
    return bool(embedded_parts(config))


def plan_embed(problem: Problem) -> tuple[list[EmbedShard], int]:
    """Shards of what is missing, and the number of vectors in all: of distinct contents, and as many again
    of their responses where estimators read those."""
    shards, total = [], 0
    for part in embedded_parts(problem.config):
        if part == "response" and problem.all_exact:
            continue
        found, count = _plan_part(problem, part)
        shards += found
        total += count
    return shards, total


def _plan_part(problem: Problem, part: Part) -> tuple[list[EmbedShard], int]:
    shards, total = [], 0
    seen: dict[int, npt.NDArray[np.int64]] = {}
    sides: list[tuple[str, Side, list[npt.NDArray[np.int64]]]] = [("pool", "row", problem.row_shards)]
    if not problem.config.pointwise:
        sides.append(("target", "column", problem.column_shards))
    what = "" if part == "example" else "responses "
    for name, side, blocks in sides:
        store = _store(problem, side, part)
        # The blocks of one side share no content.
        known = seen.get(id(store), np.empty(0, np.int64))
        seen[id(store)] = np.concatenate([known, *blocks])
        for number, contents in enumerate(blocks):
            fresh = contents[~np.isin(contents, known)] if len(known) else contents
            total += len(fresh)
            missing = store.missing(fresh)
            if len(missing):
                ids = tuple(missing.tolist())
                shards.append(EmbedShard(f"{name} {what}block {number}", side, ids, part))
    return shards, total


def embed_shard(
    problem: Problem, encoder: Encoder, shard: EmbedShard, progress: Callable[[int], None] | None = None
) -> int:
    """Embed a shard piece by piece, so that a killed one keeps its finished pieces; returns texts done."""
    store = _store(problem, shard.side, shard.part)
    prefix = prefix_of(problem.config.encoder, shard.side)
    store.refresh()
    ids = store.missing(np.array(shard.content_ids, np.int64))
    parents = problem.valued
    for start in range(0, len(ids), PIECE):
        piece = ids[start : start + PIECE]
        texts = _texts(problem.texts(piece), shard.part)
        before = encoder.truncated
        vectors = encoder.embed(texts, progress, prefix)
        store.write(piece, vectors, parents, {"truncated_texts": encoder.truncated - before})
    return len(ids)


def _store(problem: Problem, side: Side, part: Part) -> VectorStore:
    return problem.vectors(side) if part == "example" else problem.response_vectors(side)


def _texts(rows: Rows, part: Part) -> list[str]:
    if part == "response":
        return list(rows.responses)
    return [example_text(p, r) for p, r in zip(rows.prompts, rows.responses, strict=True)]
