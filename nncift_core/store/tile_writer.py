"""Tiles written by a thread of their own, so that computing does not wait for the disk."""

from __future__ import annotations

import queue
import threading
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from nncift_core.store.segments import SegmentStore

# Tiles that wait to be written: one more keeps the disk busy, many would only take memory.
DEPTH = 2


class TileWriter:
    """Hands tiles to one writing thread of a store; use it as a context.

    A full queue makes `put` wait (back-pressure). What fails in the thread is raised by the next `put` or at
    the end of the context, and nothing is written after it. Leaving by an exception drops what still waits.
    """

    def __init__(self, store: SegmentStore, *, producer: str, parents: tuple[str, ...] = ()) -> None:
        self.store, self._about = store, {"producer": producer, "parents": parents}
        self._queue: queue.Queue[tuple[Any, ...] | None] = queue.Queue(DEPTH)
        self._failure: BaseException | None = None
        self._dropped = False
        self._thread = threading.Thread(target=self._run, name="tile-writer", daemon=True)

    def put(
        self,
        row_ids: npt.NDArray[np.int64],
        column_ids: npt.NDArray[np.int64],
        values: npt.NDArray[np.float32],
    ) -> None:
        """Write `values` [r, c] soon; the arrays are the writer's from now on."""
        self._raise()
        self._queue.put((row_ids, column_ids, values))

    def _run(self) -> None:
        while (tile := self._queue.get()) is not None:
            if self._failure is not None or self._dropped:
                continue
            try:
                self.store.write_tile(*tile, **self._about)  # type: ignore[arg-type]
            except BaseException as e:  # noqa: BLE001 - raised again where somebody listens
                self._failure = e

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dropped = error is not None
        try:
            self._queue.put(None)
            self._thread.join()
        except BaseException:
            # Interrupted while the last tiles were written: what waits is dropped here too.
            self._dropped = True
            raise
        if error is None:
            self._raise()
