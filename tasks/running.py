"""Calling cached tasks: single answers that are checked, and shards that planning found missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import State, Task

from nncift_core.hashing import digest
from tasks.interrupts import interrupts
from tasks.job import Job


def cached(
    job: Job, task: Task[..., Any], key: str, check: Callable[[Any], bool], *args: Any
) -> tuple[Any, bool]:
    """Call a cached task; a cached answer that fails `check` (files gone, say) is computed anew.

    Returns the answer and whether it was computed now.
    """
    bound = task.with_options(result_storage=job.ws.prefect_dir, retries=job.config.execution.retries)
    state = _state(bound, key, job, *args)
    value = state.result()
    if state.name == "Cached" and not check(value):
        state = _state(bound.with_options(refresh_cache=True), key, job, *args)
        value = state.result()
    return value, state.name != "Cached"


def _state(task: Task[..., Any], *args: Any) -> State[Any]:
    """Run a task in this thread and return its final state; a Ctrl-C that was lost in it is raised here."""
    interrupts.check()
    state: Any = task(*args, return_state=True)
    interrupts.check()
    final: State[Any] = state
    return final


def run_shards(job: Job, task: Task[..., Any], shards: list[dict[str, Any]], *args: Any) -> None:
    """Submit the shards that planning found missing; all are tried before one fails the run.

    Planning says these are not stored, so a cached answer under their key is stale and refreshed.
    """
    bound = task.with_options(
        result_storage=job.ws.prefect_dir, refresh_cache=True, retries=job.config.execution.retries
    )
    named = [task.name, job.identity.values, *job.identity.encoders, *map(str, args)]
    futures = [bound.submit(digest([*named, shard]), job, *args, shard) for shard in shards]
    for future in futures:
        future.wait()
    interrupts.check()
    for future in futures:
        future.result()
