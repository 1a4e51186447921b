"""The Prefect API that a command speaks to: the configured one, else our local server if it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import server
from nncift_core.errors import RunError


@contextmanager
def reachable() -> Iterator[tuple[SyncPrefectClient, str]]:
    """A client of the server in PREFECT_API_URL, else of the local one; and the API's address.

    Unlike `server.connected` it starts no server and takes no other one's place: what is deployed somewhere
    else than was said is lost. Raises RunError when none answers.
    """
    url = PREFECT_API_URL.value()
    if not url:
        state = server.running()
        if state is None:
            raise RunError(
                "no Prefect server is known here. Start one with `nncift server start`, or name yours: "
                "export PREFECT_API_URL=http://HOST:4200/api"
            )
        url = state.api_url
    with temporary_settings(updates={PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        trouble = client.api_healthcheck()
        if trouble is not None:
            raise RunError(
                f"no Prefect server answers at {url} ({type(trouble).__name__}). "
                "Start it, or mend PREFECT_API_URL"
            )
        yield client, url.rstrip("/")
