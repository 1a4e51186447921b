"""Submitting the shards that planning found missing: grouped, beside other runs, failures listed."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from prefect import Task
from prefect.futures import PrefectFuture

from nncift_core.config_execution import ExecutionConfig
from nncift_core.errors import RunError, UserError
from nncift_core.execution.failures import Unfit
from nncift_core.execution.job import BaseJob
from nncift_core.execution.pool import pool_of
from nncift_core.hashing import digest
from nncift_core.store.files import made_in
from tasks.caching import prepared
from tasks.interrupts import interrupts
from tasks.shards import computed_before, group_name, shard_key
from tasks.sharing import Others

# Task runs of one stage: a flow has at most ten stages, and should stay below 500 task runs. AGAIN: of a
# stage that an attempt comes back to (rounds of refinement, added labels), which may be often.
STAGE_TASKS = 40
MAIN_STAGE_TASKS = 100
AGAIN_STAGE_TASKS = 12
# Groups for each place where Prefect workers compute: some, so that the last one is not waited for long.
_TURNS = 3
# Attempts and stages that had their first turn.
_BEGUN: set[tuple[str, str]] = set()
_MAIN_STAGES = ("exact-influence", "estimate-influence")


@dataclass(frozen=True)
class Outcome:
    """What the shards of a stage did: items computed now, and the peak memory of their worker processes."""

    computed: int
    peak_mb: float


class ShardsFailed(RunError):
    """Some shards of a stage failed after all their tries; the others are stored.

    names: of those that failed; done: what the others did; reasons: by name, why.
    """

    def __init__(self, stage: str, total: int, reasons: dict[str, Exception], done: Outcome) -> None:
        self.stage, self.total, self.reasons, self.done = stage, total, reasons, done
        super().__init__(self.text(""))

    def text(self, command: str) -> str:
        """The message; command: what completes them, if known."""
        shown = [f"{self.stage} {name} ({_reason(e)})" for name, e in list(self.reasons.items())[:20]]
        more = f"; and {len(self.reasons) - 20} more" if len(self.reasons) > 20 else ""
        return (
            f"{len(self.reasons)} of {self.total} shards of {self.stage} failed after all their tries: "
            f"{'; '.join(shown)}{more}. Finished shards are kept; complete the others with: "
            f"{command or 'the same call again'}"
        )


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
    notes = [n for n in getattr(error, "__notes__", ()) if n.startswith("shard ")]
    return " ".join("; ".join([text, *notes]).split())[:300]


def run_shards(
    job: BaseJob, task: Task[..., Any], shards: list[dict[str, Any]], given: dict[str, Any] | None = None
) -> Outcome:
    """Submit the shards that planning found missing, grouped to a bounded number of task runs.

    given: what all of them take beside the job. Planning says these are not stored, so a cached answer under
    their key is stale and refreshed. All are tried before any failure shows. Raises UserError where one says
    that the input is wrong, else ShardsFailed.
    """
    if not shards:
        return Outcome(0, 0.0)
    given = given or {}
    bound = prepared(task, job).with_options(refresh_cache=True)
    others = Others(job)
    groups = _groups(others.ordered(shards), _most(job, _allowed(task.name, made_in(job.ws.root))))
    keys = [[shard_key(task.name, job, s, given) for s in group] for group in groups]
    left = [(own[0], digest(own), group) for own, group in zip(keys, groups, strict=True)]
    # The runner of a deployed flow has no bound of its own: as many tasks at once as there are slots.
    turns = threading.BoundedSemaphore(len(pool_of(job.config).slots))
    submitted = []
    while left:
        turns.acquire()
        _, key, group = left.pop(others.first_free([first for first, _, _ in left]))
        computed_before(key)
        future = bound.submit(key, job, group, given)
        future.add_done_callback(lambda _: turns.release())
        submitted.append((key, group, future))
    for _, _, future in submitted:
        future.wait()
    # Other machines may have stored the last ones a moment ago.
    job.ws.look()
    interrupts.check()
    return _outcome(task.name, submitted)


def _outcome(stage: str, submitted: list[tuple[str, list[dict[str, Any]], PrefectFuture[Any]]]) -> Outcome:
    computed, peak, reasons = 0, 0.0, dict[str, Exception]()
    for key, group, future in submitted:
        found = future.result(raise_on_failure=False)
        if isinstance(found, UserError):
            raise found
        if isinstance(found, Exception):
            reasons[group_name(group)] = found
            computed += computed_before(key)
        else:
            computed, peak = computed + found["computed"], max(peak, found["peak_rss_mb"])
    unfit = [e for e in reasons.values() if isinstance(e, Unfit)]
    if unfit and len(unfit) == len(submitted):
        # No machine could take part.
        raise unfit[0].wrong
    if reasons:
        raise ShardsFailed(stage, len(submitted), reasons, Outcome(computed, peak))
    return Outcome(computed, peak)


def _allowed(stage: str, attempt: str) -> int:
    """How many task runs the next turn of a stage may have."""
    if (attempt, stage) in _BEGUN:
        return AGAIN_STAGE_TASKS
    _BEGUN.add((attempt, stage))
    return MAIN_STAGE_TASKS if stage in _MAIN_STAGES else STAGE_TASKS


def _most(job: BaseJob, allowed: int) -> int:
    """How many groups at most: each that goes to a worker elsewhere costs the start of a process."""
    execution: ExecutionConfig = job.config.execution
    return allowed if execution.runner != "prefect" else min(allowed, _TURNS * execution.workers.slots)


def _groups(shards: list[dict[str, Any]], most: int) -> list[list[dict[str, Any]]]:
    """Neighbouring shards together where there are more of them than task runs allowed."""
    size = -(-len(shards) // most) or 1
    return [shards[start : start + size] for start in range(0, len(shards), size)]
