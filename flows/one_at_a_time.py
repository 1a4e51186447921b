"""One run per workspace: runs that a deployment started take turns, whichever deployment it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.concurrency.sync import concurrency
from prefect.runtime import deployment

from nncift_core.store.remote.address import address_of

# Seconds after which the place of a killed run is free; a living one renews it three times as often.
LEASE_SECONDS = 60


def workspace_digest(workspace: str | Path) -> str:
    """12 hex characters that stand for a workspace: of the SHA-256 of its absolute path or URL.

    Limits, events and block names carry it instead of the path.
    """
    return hashlib.sha256(address_of(workspace).encode("utf-8")).hexdigest()[:12]


def limit_name(workspace: str | Path) -> str:
    """Name of the global concurrency limit of a workspace; `nncift deploy` creates it."""
    return f"nncift-{workspace_digest(workspace)}"


@contextmanager
def alone_in(workspace: str | Path) -> Iterator[None]:
    """Wait until no other deployed run works in `workspace`, and hold its only place.

    Outside deployments it does nothing: who types two commands at once wants two runs, and they share work by
    the workspace's own locks. Without the limit (a deployment that `nncift deploy` did not make) nothing
    waits either. A server that goes away while the place is held ends no run: two runs at once compute some
    tiles twice, and lose nothing.
    """
    if deployment.id is None:
        yield
        return
    with concurrency(
        limit_name(workspace),
        occupy=1,
        lease_duration=LEASE_SECONDS,
        strict=False,
        raise_on_lease_renewal_failure=False,
    ):
        yield
