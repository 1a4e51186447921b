"""How tasks are made: cached by content, retried where that can help; and calling those of one answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from prefect import State, Task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import TaskRun

from nncift_core.execution.failures import is_permanent
from nncift_core.execution.job import BaseJob
from nncift_core.text import one_line
from tasks.interrupts import interrupts

# Seconds that no wait between two tries exceeds.
_LONGEST_WAIT = 600.0


def _key(_: Any, parameters: dict[str, Any]) -> str:
    return str(parameters["key"])


def worth_retrying(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    """Wrong input stays wrong, and a stop is meant: only other failures are tried again."""
    if interrupts.seen:
        return False
    try:
        state.result()
    except Exception as e:
        return not is_permanent(e)
    return True


def stage_task(
    name: str, run_name: str | Callable[[dict[str, Any]], str]
) -> Callable[[Callable[..., Any]], Task[..., Any]]:
    """A cached, retried task named `name` in the UI; its runs are called `run_name`, filled with parameters.

    Names of data sets are the user's: what would steer a page is shown as a sign, what is long is cut.
    """

    def named(parameters: dict[str, Any]) -> str:
        text = run_name.format(**parameters) if isinstance(run_name, str) else run_name(parameters)
        return one_line(text, 80)

    def wrap(fn: Callable[..., Any]) -> Task[..., Any]:
        made: Task[..., Any] = Task(
            fn,
            name=name,
            task_run_name=cast(Any, named),
            cache_policy=CacheKeyFnPolicy(cache_key_fn=_key),
            persist_result=True,
            result_serializer="json",
            retry_condition_fn=worth_retrying,
        )
        return made

    return wrap


def prepared(task: Task[..., Any], job: BaseJob) -> Task[..., Any]:
    """`task` with what the job says of it: where its answers are kept, how often and when it is tried again.

    Waits double from `retry_seconds` on, give or take a half, so that shards that failed together do not
    come back together.
    """
    e = job.config.execution
    waits = [min(e.retry_seconds * 2**k, _LONGEST_WAIT) for k in range(e.retries)]
    return task.with_options(
        result_storage=job.ws.prefect_dir,
        retries=e.retries,
        retry_delay_seconds=waits or 0,
        retry_jitter_factor=0.5,
    )


def cached(
    job: BaseJob, task: Task[..., Any], key: str, check: Callable[[Any], bool], *args: Any
) -> tuple[Any, bool]:
    """Call a cached task; a cached answer that fails `check` (files gone, say) is computed anew.

    Returns the answer and whether it was computed now.
    """
    bound = prepared(task, job)
    state = _state(bound, key, job, *args)
    value = state.result()
    if state.name == "Cached" and not check(value):
        state = _state(bound.with_options(refresh_cache=True), key, job, *args)
        value = state.result()
    if state.name != "Cached":
        job.ws.share_answer(key)
    return value, state.name != "Cached"


def _state(task: Task[..., Any], *args: Any) -> State[Any]:
    """Run a task in this thread and return its final state; a Ctrl-C that was lost in it is raised here."""
    interrupts.check()
    state: Any = task(*args, return_state=True)
    interrupts.check()
    final: State[Any] = state
    return final
