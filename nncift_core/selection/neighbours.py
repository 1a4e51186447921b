"""A kernel that keeps, for each represented item, its k most similar candidates, and nothing else.

Found by exact search: all pairs are computed, block by block, and a heap of k values per item is all
that is kept. The greedy maximum on it, from cover_0, is that of
    f_k(A) = sum_i max(cover_0[i], max_{a in A, a among the k nearest of i} s(i, a)).
With cover_0 = 0 what is not stored counts as 0, and f_k <= f. With cover_0 = `least`, each item's
smallest stored value, it counts as that much, and f_k = sum_i max(least[i], max_{a in A} s(i, a)) >= f.
Either equals f as soon as every item has one of its k nearest in A, which takes about represented / k
picks; until then the former only covers items, near and far ones alike.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Compiled with the loops of gains.py 7cc42c8328af: tests/selection/test_compiled.py asks.
from nncift_core.compiled import compiled
from nncift_core.selection.gains import Csr
from nncift_core.selection.kernels import Float32, SimilarityRows
from nncift_core.selection.result import Int64

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class NeighbourKernel:
    """CSR arrays by candidate: candidate a represents item indices[k] with values[k], k in
    starts[a]..starts[a+1]-1; starts int64 [candidates + 1]. least [represented]: each item's smallest
    stored value, or what it had to exceed where fewer than k do. shape: (candidates, represented)."""

    starts: Int64
    indices: Int32
    values: Float32
    least: Float32
    shape: tuple[int, int]

    @property
    def csr(self) -> Csr:
        """The arrays as `lazy_greedy` reads them."""
        return self.starts, self.indices, self.values


@compiled
def _offer(
    block: Float32, first: int, heap_value: Float32, heap_index: Int32, least: Float32, begin: int, end: int
) -> None:
    """Offer candidates first, first + 1, ... to the items begin..end-1; equal values keep the earlier one.

    heap_value, heap_index [represented, k]: per item a heap whose smallest value comes first, which
    `least` [represented] repeats in one contiguous array, because nearly every offer stops there.
    """
    k = heap_value.shape[1]
    for r in range(len(block)):
        row = block[r]
        for i in range(begin, end):
            if row[i] <= least[i]:
                continue
            values, index, value, at = heap_value[i], heap_index[i], row[i], 0
            while True:
                child = 2 * at + 1
                if child >= k:
                    break
                # Of two equal values the later candidate goes first, so that the earlier one stays.
                if child + 1 < k and (
                    values[child + 1] < values[child]
                    or (values[child + 1] == values[child] and index[child + 1] > index[child])
                ):
                    child += 1
                if values[child] > value or (values[child] == value and index[child] < first + r):
                    break
                values[at], index[at] = values[child], index[child]
                at = child
            values[at], index[at] = value, first + r
            least[i] = values[0]


@compiled
def _by_candidate(heap_value: Float32, heap_index: Int32, candidates: int) -> tuple[Int64, Int32, Float32]:
    """From lists by item to CSR by candidate; places never filled are left out."""
    items, k = heap_value.shape
    starts = np.zeros(candidates + 1, np.int64)
    for i in range(items):
        for j in range(k):
            if heap_index[i, j] >= 0:
                starts[heap_index[i, j] + 1] += 1
    for a in range(candidates):
        starts[a + 1] += starts[a]
    indices = np.empty(starts[-1], np.int32)
    values = np.empty(starts[-1], np.float32)
    at = starts[:-1].copy()
    for i in range(items):
        for j in range(k):
            a = heap_index[i, j]
            if a >= 0:
                indices[at[a]], values[at[a]] = i, heap_value[i, j]
                at[a] += 1
    return starts, indices, values


def nearest(
    rows: SimilarityRows, k: int, least: Float32, memory: int = 1 << 28, workers: int = 2
) -> NeighbourKernel:
    """Each item's k most similar candidates among those above `least` [represented], by exact search.

    Holds one block of at most `memory` bytes and 12 bytes per stored pair, twice while sorting. Equal
    values keep the candidate of lowest index. Raises ValueError unless 1 <= k <= candidates.
    """
    candidates, represented = rows.shape
    if not 1 <= k <= candidates:
        raise ValueError(f"neighbours is {k}, but must lie in 1..{candidates} (the number of candidates)")
    size = min(candidates, max(1, memory // (4 * represented)))
    buffer = np.empty((size, represented), np.float32)
    heap_value = np.repeat(least[:, None], k, axis=1)
    heap_index = np.full((represented, k), -1, np.int32)
    smallest = least.copy()
    cuts = np.linspace(0, represented, workers + 1).astype(int).tolist()
    with ThreadPoolExecutor(workers) as pool:
        for a in range(0, candidates, size):
            block = rows.rows(a, min(a + size, candidates), buffer[: min(size, candidates - a)])
            jobs = [
                pool.submit(_offer, block, a, heap_value, heap_index, smallest, begin, end)
                for begin, end in zip(cuts, cuts[1:], strict=False)
            ]
            for job in jobs:
                job.result()
    return NeighbourKernel(*_by_candidate(heap_value, heap_index, candidates), smallest, rows.shape)
