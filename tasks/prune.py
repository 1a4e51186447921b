"""The cached tasks of a prune job that run in the flow's process: storing labelled rows, learning scores."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

from nncift_core.config_prune import LabelledRows
from nncift_core.pipeline.inputs import LabelledRole, store_input
from nncift_core.pruning.inputs import read_labelled_input
from nncift_core.pruning.job import PruneJob
from nncift_core.pruning.learning import LearnShard, learn
from nncift_core.pruning.outcome import score_under
from nncift_core.pruning.problem import GIVEN
from nncift_core.scores.compute import Scores
from tasks.caching import stage_task
from tasks.current import current
from tasks.shards import shard_task

_ONE_AT_A_TIME = threading.Lock()
_BLOCK_ROWS = 4096


@stage_task("ingest-labelled", "ingest {role} {name}")
def ingest_labelled(
    key: str, job: PruneJob, role: LabelledRole, name: str, rows: dict[str, Any]
) -> dict[str, Any]:
    """Read, validate and store one set of labelled rows; returns its reference."""
    found = read_labelled_input(role, LabelledRows.model_validate(rows), job.base_dir)
    return store_input(job.ws, found, _BLOCK_ROWS).model_dump(mode="json")


@lru_cache(maxsize=1)
def _scores(job: PruneJob) -> Scores:
    return score_under(job.problem(), GIVEN).scores


def forget_scores() -> None:
    """Free the scores that learning shards of this process share."""
    _scores.cache_clear()


def _learn(key: str, job: PruneJob, shard: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Learn one score from embeddings: memory and all cores of this process, no device."""
    with _ONE_AT_A_TIME:
        scores = _scores(job)
    return {
        "computed": learn(job.problem(), LearnShard(**shard), scores, current.advance),
        "device": "cpu",
    }


learn_scores = shard_task("learn-scores", _learn)
