"""`nncift notify-data`: tell the server that new rows are there, so that it starts a refresh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.events.schemas.events import Event

from flows.definitions import DATA_ARRIVED
from flows.one_at_a_time import workspace_digest
from nncift_core.store.remote.address import address_of


def data_arrived(client: SyncPrefectClient, workspace: Path, dataset: str | None) -> str:
    """Send the event and return its id; the server has it when this returns.

    dataset: the name of the data set that grew, for people; every refresh of the workspace looks at all of
    them.
    """
    where = address_of(workspace)
    event = Event(
        event=DATA_ARRIVED,
        resource={
            "prefect.resource.id": resource_id(where),
            "prefect.resource.name": Path(where).name,
        },  # type: ignore[arg-type]
        payload={"workspace": where, "dataset": dataset},
    )
    answer = client.request("POST", "/events", json=[event.model_dump(mode="json")])
    answer.raise_for_status()
    return str(event.id)


def resource_id(workspace: str | Path) -> str:
    """What the event is about, without the path."""
    return f"nncift.workspace.{workspace_digest(workspace)}"


def listeners(client: SyncPrefectClient, workspace: Path) -> list[str]:
    """Names of the enabled automations that hear the event of this workspace."""
    about = {resource_id(workspace), "nncift.workspace.*"}

    def hears(trigger: Any) -> bool:
        match = getattr(trigger, "match", None)
        ids = {match.root.get("prefect.resource.id")} if match is not None else set()
        return DATA_ARRIVED in getattr(trigger, "expect", ()) and bool(ids & about)

    return [a.name for a in client.read_automations() if a.enabled and hears(a.trigger)]
