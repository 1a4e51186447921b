"""Batches of labels: at random, or sharing rows and columns so that few embeddings serve many labels."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

_SMALL_NETWORK = 1_000_000
_lock = threading.Lock()
_inside = 0
_threads_outside = 1


class Shuffled:
    """Labels in random order, `batch` at a time; arguments as for `Tiles`."""

    def __init__(self, row_index: torch.Tensor, column_index: torch.Tensor, batch: int) -> None:
        self._n, self._batch = len(row_index), batch

    def epoch(self, generator: torch.Generator) -> Sequence[torch.Tensor]:
        """Positions of labels [k] in batches, each position once."""
        return _cut(torch.randperm(self._n, generator=generator), self._batch)


class Tiles:
    """Labels cut anew for every epoch into tiles of random rows x random columns.

    row_index, column_index [k]: numbers of row and column of each label, from 0. A tile is as near to a
    square as rows and columns allow, and holds about `batch` labels, however densely they lie.
    """

    def __init__(self, row_index: torch.Tensor, column_index: torch.Tensor, batch: int) -> None:
        rows, self._row_of = torch.unique(row_index, return_inverse=True)
        columns, self._column_of = torch.unique(column_index, return_inverse=True)
        self._batch, self._shape = batch, (len(rows), len(columns))
        m, n = self._shape
        pairs = max(1.0, batch * m * n / len(row_index))
        side = min(m, n, math.sqrt(pairs))
        # The longer side makes up for a shorter one that has no more to give.
        height, breadth = (side, pairs / side) if m <= n else (pairs / side, side)
        self._chunks = max(1, round(m / height)), max(1, round(n / breadth))

    def epoch(self, generator: torch.Generator) -> Sequence[torch.Tensor]:
        """Positions of labels [k] in batches, each position once; tiles in random order."""
        (m, n), (row_chunks, column_chunks) = self._shape, self._chunks
        row_chunk = torch.randperm(m, generator=generator) % row_chunks
        column_chunk = torch.randperm(n, generator=generator) % column_chunks
        turn = torch.randperm(row_chunks * column_chunks, generator=generator)
        tile = turn[row_chunk[self._row_of] * column_chunks + column_chunk[self._column_of]]
        shuffled = torch.randperm(len(tile), generator=generator)
        order = shuffled[torch.argsort(tile[shuffled], stable=True)]
        return _cut(order, batch_sizes(torch.bincount(tile).tolist(), self._batch))


def batch_sizes(counts: Sequence[int], batch: int) -> list[int]:
    """Sizes of consecutive batches: tiles of less than half a batch are joined, crowded ones cut evenly."""
    sizes: list[int] = []
    held = 0
    for count in counts:
        held += count
        if 2 * held < batch:
            continue
        pieces = max(1, round(held / batch))
        sizes += [held // pieces + (k < held % pieces) for k in range(pieces)]
        held = 0
    if held and sizes:
        sizes[-1] += held
    elif held:
        sizes = [held]
    return sizes


def _cut(order: torch.Tensor, sizes: int | list[int]) -> Sequence[torch.Tensor]:
    parts: Sequence[torch.Tensor] = torch.split(order, sizes)
    return parts


@contextmanager
def one_thread(weights: int) -> Iterator[None]:
    """One torch thread inside, where the network is small: others only wait for each other there.

    weights: of the network; from a million on nothing changes. Torch keeps the number of threads for each
    thread of the process and a copy for new ones; both are what they were when the first of several that
    overlap came in, once the last has left.
    """
    global _inside, _threads_outside
    if weights >= _SMALL_NETWORK:
        yield
        return
    with _lock:
        if _inside == 0:
            _threads_outside = torch.get_num_threads()
        _inside += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            torch.set_num_threads(_threads_outside)
