"""Embedding what has no vector yet, in shards of blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nncift_core.config import Config
from nncift_core.encoders import Encoder, example_text
from nncift_core.influence.registry import FUNCTIONS
from nncift_core.pipeline.problem import Problem

PIECE = 512


@dataclass(frozen=True)
class EmbedShard:
    """Contents of one block that lack a vector."""

    name: str
    content_ids: tuple[int, ...]


def embeddings_needed(config: Config) -> bool:
    """Whether any later stage reads embeddings: the estimator does, and functions that say so."""
    i = config.influence
    return i.label_fraction < 1 or "embedding" in FUNCTIONS[i.function].needs


def plan_embed(problem: Problem) -> tuple[list[EmbedShard], int]:
    """Shards of what is missing, and the number of distinct contents in all."""
    shards, seen = [], set[int]()
    sides = [("pool", problem.row_shards), ("target", problem.column_shards)]
    for side, blocks in sides:
        for number, contents in enumerate(blocks):
            fresh = np.array([c for c in contents.tolist() if c not in seen], dtype=np.int64)
            seen.update(fresh.tolist())
            missing = problem.vectors.missing(fresh)
            if len(missing):
                shards.append(EmbedShard(f"{side} block {number}", tuple(missing.tolist())))
    return shards, len(seen)


def embed_shard(
    problem: Problem, encoder: Encoder, shard: EmbedShard, progress: Callable[[int], None] | None = None
) -> int:
    """Embed a shard piece by piece, so that a killed one keeps its finished pieces; returns texts done."""
    store = problem.vectors
    store.refresh()
    ids = store.missing(np.array(shard.content_ids, np.int64))
    parents = problem.valued
    for start in range(0, len(ids), PIECE):
        piece = ids[start : start + PIECE]
        texts = problem.texts(piece)
        joined = [example_text(p, r) for p, r in zip(texts.prompts, texts.responses, strict=True)]
        before = encoder.truncated
        vectors = encoder.embed(joined, progress)
        store.write(piece, vectors, parents, {"truncated_texts": encoder.truncated - before})
    return len(ids)
