"""A process that stores many small tiles one after another, to be killed at any moment.

As a program: `python -m faults.writer WORKSPACE RENAME`. RENAME: at which rename it kills itself, just before
it or (with a minus sign) just after; 0: never, somebody else will.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from nncift_core.store.segments import SegmentStore
from nncift_core.store.workspace import Workspace

TILES = 150
KEY = "f" * 32
COLUMNS = np.arange(1000, 1006)


def rows_of(n: int) -> np.ndarray:
    """Row ids of tile `n`."""
    return np.arange(4 * n, 4 * n + 4)


def values_of(n: int) -> np.ndarray:
    """Values of tile `n`."""
    return np.random.default_rng(n).normal(size=(4, len(COLUMNS))).astype(np.float32)


def write_missing(root: Path) -> int:
    """Store every tile that is not there; returns how many."""
    store, written = SegmentStore(Workspace.create(root), "exact", KEY), 0
    for n in range(TILES):
        if not store.coverage(rows_of(n), COLUMNS).all():
            store.write_tile(rows_of(n), COLUMNS, values_of(n), producer="faults")
            written += 1
    return written


def end_at_rename(number: int) -> None:
    """Have this process killed at its rename `number`: a payload's, a manifest's, in turns."""
    rename, left = os.replace, abs(number)

    def counted(*given: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0 and number > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*given)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counted


def main(root: str, rename: str) -> None:
    """Write all tiles."""
    if int(rename):
        end_at_rename(int(rename))
    print("ready", flush=True)
    write_missing(Path(root))


if __name__ == "__main__":
    main(*sys.argv[1:])
