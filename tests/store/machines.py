"""What tests of workspaces in object stores share: machines, a store that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nncift_core.store.workspace import Workspace

Machine = Callable[[str], Workspace]


@contextmanager
def broken(ws: Workspace, error: Exception, times: int = 10**6) -> Iterator[list[int]]:
    """The store fails so many times for a machine."""
    assert ws.mirror is not None
    real, left = ws.mirror.objects.fs, [times]

    class Broken:
        def __getattr__(self, name: str) -> Any:
            def call(*args: Any, **given: Any) -> Any:
                if left[0] > 0:
                    left[0] -= 1
                    raise error
                return getattr(real, name)(*args, **given)

            return call

    ws.mirror.objects.fs = Broken()
    try:
        yield left
    finally:
        ws.mirror.objects.fs = real
