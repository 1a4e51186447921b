"""What the server should say of runs: tags that find them, and an end for what a crash left "Running".

A task run's state is told by the process that runs it. When that one is killed nobody tells its end, so the
next run of the workspace does, and a worker that notices the crash.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
from prefect import Flow, State
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run
from prefect.states import Crashed

from nncift_core.execution.job import AnyConfig
from nncift_core.hashing import digest
from nncift_core.store.runs import Attempt, note_killed, read_attempts
from nncift_core.store.workspace import Workspace
from tasks.progress import say

_OPEN = [StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED, StateType.PAUSED, StateType.CANCELLING]
_PAGE = 200
_WHY = "its process was killed; what it had finished is kept"


def begin(attempt: Attempt, config: AnyConfig, versions: dict[str, str]) -> None:
    """Tell the server what this flow run is, and end the runs that killed attempts left open.

    versions: of the data, by role and name. A server that cannot be asked is no reason to stop: it is said.
    """
    try:
        with get_client(sync_client=True) as client:
            _end_dead(client, attempt.ws)
            if flow_run.id:
                attempt.note(flow_run=str(flow_run.id))
                tags = {*(flow_run.tags or []), *tags_of(config, versions)}
                client.update_flow_run(UUID(str(flow_run.id)), tags=sorted(tags))
    except (httpx.HTTPError, PrefectException) as e:
        say(f"the server could not be told about this run ({type(e).__name__}); the run goes on")


def tags_of(config: AnyConfig, versions: dict[str, str]) -> list[str]:
    """The function, and the first 8 digits of a hash of all data: runs over the same data share it."""
    return [f"function:{config.subject}", f"data:{digest(sorted(versions.items()))[:8]}"]


def end_task_runs(client: SyncPrefectClient, run: UUID) -> int:
    """Mark the task runs of a dead flow run that have no end as Crashed; returns how many there were."""
    ended = 0
    while True:
        found = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])),
            task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_OPEN))),
            limit=_PAGE,
        )
        for task_run in found:
            client.set_task_run_state(task_run.id, Crashed(message=_WHY), force=True)
        ended += len(found)
        if len(found) < _PAGE:
            return ended


def end_crashed(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of flows: the worker that notices a crash ends the task runs, too."""
    with get_client(sync_client=True) as client:
        end_task_runs(client, flow_run.id)


def _end_dead(client: SyncPrefectClient, ws: Workspace) -> None:
    """End what attempts of this workspace that were killed left open on the server."""
    for record in read_attempts(ws):
        if record["status"] != "killed" or not record.get("flow_run") or record.get("told_of_end"):
            continue
        run = UUID(record["flow_run"])
        try:
            ended = end_task_runs(client, run)
            again = str(flow_run.id) == str(run)
            state = client.read_flow_run(run).state
            if state is not None and not state.is_final() and not again:
                client.set_flow_run_state(run, Crashed(message=_WHY), force=True)
        except PrefectException:
            # Another server's run, or one that was deleted there: nothing to end here.
            ended = 0
        note_killed(ws, record["run_id"], record["attempt"], told_of_end=True)
        if ended:
            say(f"{ended} task runs of an attempt that was killed are marked as crashed")
