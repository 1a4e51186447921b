"""Groups of shards that Prefect workers compute, on whichever machines: the side that waits for them.

A group is one flow run of the deployment `execution.prefect.deployment` (`flows/shard_groups.py`), under the
task run that asked for it. What it says at its end stands in the message of its last state, as JSON: no store
of results has to be shared beside the workspace.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterType
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Cancelled, Cancelling

from nncift_core import __version__
from nncift_core.errors import UserError
from nncift_core.execution.failures import WorkerLost, unpacked
from nncift_core.execution.job import BaseJob
from nncift_core.hashing import digest
from nncift_core.store.files import delete, made_in, write_json
from tasks.current import current
from tasks.progress import say

# Seconds: between two looks at a group; a group may wait for a worker before that is said; the server may be
# out of reach before the group counts as lost; a worker may take to start what it took.
_LOOK, _PATIENT, _UNREACHED, _STARTS = 2.0, 60.0, 600.0, 300.0
# In the metadata of a group's progress artifact: items done.
ITEMS = "items"


@dataclass(frozen=True)
class Group:
    """Shards of one task run: the task's name and key, the job, the shards, what all of them take."""

    name: str
    key: str
    job: BaseJob
    shards: list[dict[str, Any]]
    given: dict[str, Any]

    @property
    def ticket(self) -> str:
        """What this run calls the group: another run may ask for the same shards."""
        return digest([self.key, made_in(self.job.ws.root)])

    def message(self) -> dict[str, Any]:
        """As JSON, for `flows.shard_groups`."""
        return {
            "name": self.name,
            "ticket": self.ticket,
            "kind": self.job.kind,
            "job": self.job.model_dump(mode="json"),
            "shards": self.shards,
            "given": self.given,
            "made_in": made_in(self.job.ws.root),
        }


def check_workers(deployment: str) -> None:
    """Raise UserError where the server in use has no such deployment; say so where no worker is ready."""
    with get_client(sync_client=True) as client:
        try:
            pool = client.read_deployment_by_name(deployment).work_pool_name
        except ObjectNotFound:
            raise _no_deployment(deployment) from None
        ready = [w for w in client.read_workers_for_work_pool(pool) if w.status == "ONLINE"] if pool else []
    if not ready:
        say(f"no worker of the work pool {pool} is online: shards wait until one is")


def _no_deployment(deployment: str) -> UserError:
    return UserError(
        f"the Prefect server has no deployment {deployment}",
        field="execution.prefect.deployment",
        mend="Run `nncift deploy` against this server; it says how to start the workers.",
    )


def compute_elsewhere(group: Group, title: str) -> dict[str, Any]:
    """Have a group computed by a worker; returns what `tasks.shards.compute_group` returned there.

    Raises what failed there, and WorkerLost where the flow run was lost, cancelled or crashed; a stop here
    cancels it.
    """
    ws, deployment = group.job.ws, group.job.config.execution.workers.deployment
    with _written(group), ws.marked() as mark, get_client(sync_client=True) as client:
        asked = {"workspace": ws.address, "key": group.ticket, "mark": mark, "version": __version__}
        try:
            # `run_deployment` answers at once with the flow run: nothing is waited for.
            run: Any = run_deployment(
                deployment,
                parameters=asked,
                flow_run_name=f"{group.name} {title}",
                timeout=0,
            )
        except ObjectNotFound:
            raise _no_deployment(deployment) from None
        try:
            return _outcome(*_awaited(client, run.id))
        except BaseException:
            _cancel(client, run.id)
            raise


@contextmanager
def _written(group: Group) -> Iterator[None]:
    """The group as a file of the workspace, while it is computed: thousands of row ids are no parameters of a
    flow run, which a server keeps."""
    path = group.job.ws.group_file(group.ticket)
    write_json(path, group.message())
    try:
        yield
    finally:
        delete(path)


def _awaited(client: SyncPrefectClient, run: UUID) -> tuple[FlowRun, int]:
    """The flow run once it is over, and how many of its items were told as progress."""
    begun, reached, told, waits = time.monotonic(), time.monotonic(), 0, False
    pending: float | None = None
    while True:
        try:
            found, items = client.read_flow_run(run), _items(client, run)
            reached = time.monotonic()
        except (httpx.HTTPError, PrefectException) as e:
            if time.monotonic() - reached > _UNREACHED:
                raise WorkerLost(f"the Prefect server does not answer ({type(e).__name__})") from None
            # A stop is heard meanwhile.
            current.advance(0)
            time.sleep(_LOOK)
            continue
        current.advance(max(0, items - told))
        told = max(told, items)
        if found.state is not None and found.state.is_final():
            return found, told
        # Of a worker that died before the flow began nobody hears again.
        is_pending = found.state is not None and found.state.is_pending()
        pending = (pending or time.monotonic()) if is_pending else None
        if pending is not None and time.monotonic() - pending > _STARTS:
            raise WorkerLost(
                f"a worker took flow run {found.name}, and did not start it within {_STARTS:.0f} s"
            )
        if found.start_time is None and not waits and time.monotonic() - begun > _PATIENT:
            waits = True
            say(f"{found.name} waits for a worker of the work pool {found.work_pool_name}")
        time.sleep(_LOOK)


def _items(client: SyncPrefectClient, run: UUID) -> int:
    """Items that a group has told of in its progress artifact."""
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[run]), type=ArtifactFilterType(any_=["progress"])
        )
    )
    return max((int((a.metadata_ or {}).get(ITEMS, 0)) for a in found), default=0)


def _outcome(run: FlowRun, told: int) -> dict[str, Any]:
    state = run.state
    assert state is not None
    try:
        said = json.loads(state.message or "")
        done, error = said.get("done"), said.get("error")
    except (ValueError, AttributeError):
        done, error = None, None
    if error is not None:
        failed = unpacked(error)
        failed.computed = int(said.get("computed", 0))  # type: ignore[attr-defined]
        raise failed
    if done is None or not state.is_completed():
        raise WorkerLost(
            f"flow run {run.name} ended as {state.name}: {(state.message or 'no message')[:300]}"
        )
    current.advance(max(0, done["computed"] - told))
    result: dict[str, Any] = done
    return result


def _cancel(client: SyncPrefectClient, run: UUID) -> None:
    """Ask the worker to end a flow run that nobody waits for any more; one that is over stays as it is."""
    try:
        state = client.read_flow_run(run).state
        why = "nobody waits for it any more"
        if state is not None and state.is_pending():
            # Nothing runs that could end it.
            client.set_flow_run_state(run, Cancelled(message=why), force=True)
        elif state is not None and not state.is_final():
            client.set_flow_run_state(run, Cancelling(message=why))
    except (httpx.HTTPError, PrefectException) as e:
        say(f"flow run {run} could not be cancelled ({type(e).__name__})")
