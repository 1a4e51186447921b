"""The task of a sweep: its fits, in shards."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

from nncift_core.execution.job import Job
from nncift_core.pipeline.sweep import Corner, material_of
from nncift_core.pipeline.sweep_fits import FitShard, Scope, compute_fits
from nncift_core.studies import Material
from tasks.current import current
from tasks.shards import shard_task

_ONE_AT_A_TIME = threading.Lock()


@lru_cache(maxsize=1)
def _inputs(job: Job) -> tuple[Scope, Material]:
    corner = Corner.of(job.problem())
    return Scope.of(corner), material_of(corner)


def forget_material() -> None:
    """Free the matrix and the features that fits of this process share."""
    _inputs.cache_clear()


def _fits(key: str, job: Job, shard: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Make the fits of one shard and measure them on the whole exact matrix."""
    with _ONE_AT_A_TIME:
        scope, material = _inputs(job)
    return {"computed": compute_fits(scope, material, FitShard(**shard), current.advance), "device": "cpu"}


study_fits = shard_task("study-fits", _fits)
