"""Features of an influence function: linear work per row and per target row, for the exact pairs of a run.

Only rows and columns that an unfinished exact shard touches are computed; each once, in pieces that a
killed task keeps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.config import Config
from nncift_core.influence.contract import InfluenceFunction, Side
from nncift_core.influence.registry import implementation
from nncift_core.pipeline.exact import ExactPlan
from nncift_core.pipeline.problem import SIDES, Problem
from nncift_core.pipeline.state import state_list

Int64 = npt.NDArray[np.int64]

# A projection draws its signs once per piece, so pieces are large.
PIECE = 256
SHARD = 1024


@dataclass(frozen=True)
class FeatureShard:
    """Contents of one side that lack features."""

    name: str
    side: Side
    content_ids: tuple[int, ...]


def features_needed(config: Config) -> bool:
    """Whether the configured function has features."""
    return "features" in implementation(config).needs


def plan_features(problem: Problem, plan: ExactPlan) -> tuple[list[FeatureShard], int]:
    """Shards of what is missing, and the number of features that the plan's exact pairs rest on."""
    shards, total = [], 0
    for side, number in zip(SIDES, ("rows", "columns"), strict=True):
        store = problem.features(side)
        store.refresh()
        wanted = _ordered(getattr(s, number) for s in plan.shards)
        needed = _ordered(getattr(s, number) for s in plan.shards if s.missing)
        missing = store.missing(needed)
        total += len(wanted)
        for start in range(0, len(missing), SHARD):
            ids = tuple(missing[start : start + SHARD].tolist())
            name = "pool" if side == "row" else "target"
            shards.append(FeatureShard(f"{name} {start // SHARD}", side, ids))
    return shards, total


def _ordered(parts: Iterable[tuple[int, ...]]) -> Int64:
    found = dict.fromkeys(c for part in parts for c in part)
    return np.fromiter(found, np.int64, len(found))


def compute_features(
    problem: Problem,
    function: InfluenceFunction,
    shard: FeatureShard,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Compute what `shard` lacks, piece by piece, and store it; returns the number of rows done."""
    store = problem.features(shard.side)
    store.refresh()
    ids = store.missing(np.array(shard.content_ids, np.int64))
    counted = Counter(function.counters)
    for start in range(0, len(ids), PIECE):
        piece = ids[start : start + PIECE]
        rows = problem.texts(piece, function.needs - {"features"}, shard.side)
        values = function.features(rows, shard.side, progress)
        counts = dict(Counter(function.counters) - counted)
        counted = Counter(function.counters)
        store.write(piece, values, (*problem.valued, *state_list(problem)), counts)
    return len(ids)
