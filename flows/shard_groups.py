"""The flow that Prefect workers run for a job elsewhere: a group of shards on their machine's devices."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from socket import gethostname
from typing import Any
from uuid import UUID

import httpx
from prefect import State, flow
from prefect.artifacts import create_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import PrefectException
from prefect.states import Completed, Failed

from nncift_core import __version__
from nncift_core.errors import UserError
from nncift_core.execution.failures import Unfit, packed
from nncift_core.execution.job import BaseJob
from nncift_core.execution.pool import leave_pools
from nncift_core.execution.work import JOBS
from nncift_core.store.files import write_for
from nncift_core.store.use import in_use
from nncift_core.store.workspace import Workspace
from tasks.current import current
from tasks.elsewhere import ITEMS
from tasks.shards import compute_group, computed_before

# Seconds between two reports of progress; until a machine that cannot take part says so.
_REPORT, _UNFIT = 5.0, 35.0


@flow(name="compute-shards", validate_parameters=False, persist_result=False)
def compute_shards(workspace: str, key: str, mark: str, version: str) -> State[Any]:
    """Compute the group of shards that the workspace holds as `key` (`tasks.elsewhere`).

    mark: by which the workspace is known again on this machine; version: of nncift, where the job began.
    The final state's message is JSON: {"done": counts} or {"error": what went wrong}.
    """
    try:
        _check(workspace, mark, version)
        group = json.loads(Workspace(workspace).group_file(key).read_text(encoding="utf-8"))
        return Completed(message=json.dumps({"done": _computed(group)}))
    except Exception as e:
        return Failed(message=json.dumps({"error": packed(e), "computed": computed_before(key)}))
    finally:
        leave_pools()


def _check(workspace: str, mark: str, version: str) -> None:
    """Raise Unfit where this machine cannot take part. Not at once: it would take one group after the other
    from machines that can, and a shared folder may show a new file late."""
    begun = time.monotonic()
    while True:
        try:
            _see(Workspace(workspace), mark, version)
            return
        except UserError as e:
            if time.monotonic() - begun > _UNFIT:
                raise Unfit(e) from None
        time.sleep(1.0)


def _see(ws: Workspace, mark: str, version: str) -> None:
    if version != __version__:
        raise UserError(
            f"the worker on {gethostname()} has nncift {__version__}, the job {version}",
            field="execution.prefect",
            mend="Install the same version on all machines.",
        )
    if not ws.has_mark(mark):
        raise UserError(
            f"the worker on {gethostname()} does not see the workspace {ws.address}",
            field="--workspace",
            mend="Give a folder that all machines share under this path, or a URL that all can write to.",
        )


def _computed(group: dict[str, Any]) -> dict[str, Any]:
    job = _here(JOBS[group["kind"]].model_validate(group["job"]))
    write_for(job.ws.root, group["made_in"])
    current.start(Reported(len(group["shards"])))
    with in_use(job.ws):
        return compute_group(group["name"], group["ticket"], job, group["shards"], group["given"])


def _here(job: BaseJob) -> BaseJob:
    """The same job on the devices of this machine."""
    config = json.loads(job.config_json)
    config["execution"] |= {"runner": "local", "prefect": None}
    return job.model_copy(update={"config_json": json.dumps(config)})


class Reported:
    """Progress of a group as an artifact of its flow run, for whoever waits and for the UI."""

    def __init__(self, shards: int) -> None:
        self.done, self.total = 0, 0
        self._said, self._lock = 0.0, threading.Lock()
        what = f"{shards} shard{'s' if shards > 1 else ''} of a job on another machine"
        made: Any = create_progress_artifact(0.0, description=what)
        self._artifact = UUID(str(made))

    def advance(self, items: int) -> None:
        """`items` more are done."""
        with self._lock:
            self.done += items
            if time.monotonic() - self._said < _REPORT:
                return
            self._said = time.monotonic()
            share = 100.0 * min(1.0, self.done / self.total) if self.total else 0.0
            update = ArtifactUpdate(data=share, metadata_={ITEMS: str(self.done)})
            # A server that is away for a while stops no work.
            with suppress(httpx.HTTPError, PrefectException), get_client(sync_client=True) as client:
                client.update_artifact(self._artifact, update)
