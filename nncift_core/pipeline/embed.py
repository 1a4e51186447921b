"""Embedding what has no vector yet, in shards of blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.config import Config
from nncift_core.encoders import Encoder, example_text, prefix_of
from nncift_core.influence.contract import Side
from nncift_core.influence.registry import implementation
from nncift_core.pipeline.problem import Problem

PIECE = 512


@dataclass(frozen=True)
class EmbedShard:
    """Contents of one block, of rows or of columns, that lack a vector."""

    name: str
    side: Side
    content_ids: tuple[int, ...]


def embeddings_needed(config: Config) -> bool:
    """Whether any later stage reads embeddings: the estimator does, and functions that say so."""
    return config.influence.label_fraction < 1 or "embedding" in implementation(config).needs


def plan_embed(problem: Problem) -> tuple[list[EmbedShard], int]:
    """Shards of what is missing, and the number of distinct contents in all."""
    shards, total = [], 0
    seen: dict[int, set[int]] = {}
    sides: list[tuple[str, Side, list[npt.NDArray[np.int64]]]] = [("pool", "row", problem.row_shards)]
    if not problem.config.pointwise:
        sides.append(("target", "column", problem.column_shards))
    for name, side, blocks in sides:
        store = problem.vectors(side)
        known = seen.setdefault(id(store), set())
        for number, contents in enumerate(blocks):
            fresh = np.array([c for c in contents.tolist() if c not in known], dtype=np.int64)
            known.update(fresh.tolist())
            total += len(fresh)
            missing = store.missing(fresh)
            if len(missing):
                shards.append(EmbedShard(f"{name} block {number}", side, tuple(missing.tolist())))
    return shards, total


def embed_shard(
    problem: Problem, encoder: Encoder, shard: EmbedShard, progress: Callable[[int], None] | None = None
) -> int:
    """Embed a shard piece by piece, so that a killed one keeps its finished pieces; returns texts done."""
    store = problem.vectors(shard.side)
    prefix = prefix_of(problem.config.encoder, shard.side)
    store.refresh()
    ids = store.missing(np.array(shard.content_ids, np.int64))
    parents = problem.valued
    for start in range(0, len(ids), PIECE):
        piece = ids[start : start + PIECE]
        texts = problem.texts(piece)
        joined = [example_text(p, r) for p, r in zip(texts.prompts, texts.responses, strict=True)]
        before = encoder.truncated
        vectors = encoder.embed(joined, progress, prefix)
        store.write(piece, vectors, parents, {"truncated_texts": encoder.truncated - before})
    return len(ids)
