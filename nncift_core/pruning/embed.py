"""Embedding the labelled texts for frozen training, in shards of blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nncift_core.encoders import Encoder, prefix_of
from nncift_core.pipeline.embed import PIECE
from nncift_core.pipeline.inputs import LabelledRole
from nncift_core.pruning.problem import EMPTY, Int64, PruneProblem

_BLOCK = 4096


@dataclass(frozen=True)
class TextShard:
    """Contents of one role that lack a vector; role "empty": the empty text alone."""

    name: str
    role: str
    content_ids: tuple[int, ...]


def plan_texts(problem: PruneProblem) -> tuple[list[TextShard], int]:
    """Shards of the contents without a vector, and the number of vectors in all."""
    if problem.config.training.mode == "full" and not reads_embeddings(problem):
        return [], 0
    shards, seen = [], {EMPTY}
    if len(problem.vectors.missing(np.array([EMPTY], np.int64))):
        shards.append(TextShard("the empty text", "empty", (EMPTY,)))
    for role, contents in problem.contents():
        fresh = np.array([c for c in contents.tolist() if c not in seen], np.int64)
        seen.update(fresh.tolist())
        missing = problem.vectors.missing(fresh)
        for number, start in enumerate(range(0, len(missing), _BLOCK)):
            ids = tuple(missing[start : start + _BLOCK].tolist())
            shards.append(TextShard(f"{role} part {number}", role, ids))
    return shards, len(seen)


def reads_embeddings(problem: PruneProblem) -> bool:
    """Whether embeddings are read even where the encoder is trained: by learned scores and by noise that
    flips labels to the nearest class."""
    config = problem.config
    confusable = "noise" in config.study.studies and "confusable" in config.noise.kinds
    return config.scores.learn or confusable


def embed_texts(
    problem: PruneProblem,
    encoder: Encoder,
    shard: TextShard,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Embed a shard piece by piece, so that a killed one keeps its finished pieces; returns rows done."""
    problem.vectors.refresh()
    ids = problem.vectors.missing(np.array(shard.content_ids, np.int64))
    for start in range(0, len(ids), PIECE):
        _embed_piece(problem, encoder, shard.role, ids[start : start + PIECE], progress)
    return len(ids)


def _embed_piece(
    problem: PruneProblem,
    encoder: Encoder,
    role: LabelledRole | str,
    ids: Int64,
    progress: Callable[[int], None] | None,
) -> None:
    """Vectors of rows: of a single text as it is, of a pair both beside each other."""
    if role == "empty":
        first: tuple[str, ...] = ("",) * len(ids)
        second = first
    else:
        found = problem.dataset(role).texts(ids)  # type: ignore[arg-type]
        first, second = found.prompts, found.responses
    distinct = list(dict.fromkeys([*first, *second] if problem.paired else first))
    place = {text: k for k, text in enumerate(distinct)}
    before = encoder.truncated
    vectors = encoder.embed(distinct, None, prefix_of(problem.config.encoder, "row"))
    sides = [first, second] if problem.paired else [first]
    rows = np.concatenate([vectors[[place[t] for t in side]] for side in sides], axis=1)
    counts = {"truncated_texts": encoder.truncated - before}
    problem.vectors.write(ids, rows, problem.parents, counts)
    if progress is not None:
        progress(len(ids))
