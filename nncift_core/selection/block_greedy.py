"""Exact lazy greedy over a kernel that is computed by blocks of rows, in bounded memory.

Bounds of all candidates are kept, rows only of the most promising ones: those form the block. Lazy
greedy runs inside the block for as long as its best fresh gain beats the best bound outside it; then
the most promising candidates form the next block, and only rows that are new to it are computed. The
picks are those of `lazy_greedy`: a gain is compared with bounds that hold, ties go to the lowest index.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

# Compiled with the loops of gains.py 7cc42c8328af: tests/selection/test_compiled.py asks.
from nncift_core.compiled import compiled
from nncift_core.selection.gains import row_gain
from nncift_core.selection.kernels import Float32, SimilarityRows
from nncift_core.selection.lazy_greedy import sift_down
from nncift_core.selection.result import Float64, Int64

Slots = npt.NDArray[np.int64]


@compiled
def _gains(block: Float32, cover: Float32, out: Float64) -> None:
    """out[k] = sum_i max(block[k, i] - cover[i], 0)."""
    for k in range(len(block)):
        out[k] = row_gain(block[k], cover)


@compiled
def _best_matches(block: Float32, out: Float64) -> None:
    """out[k] = max_i block[k, i]."""
    for k in range(len(block)):
        best = block[k, 0]
        for i in range(len(block[k])):
            best = max(best, block[k, i])
        out[k] = best


@compiled
def _greedy_in_block(
    block: Float32,
    slot: Slots,
    heap: Int64,
    cover: Float32,
    modular: Float64,
    bound: Float64,
    outside: float,
    outside_index: int,
    order: Int64,
    gains: Float64,
    step: int,
) -> tuple[int, int]:
    """Pick while the best of the block beats what lies outside; the next step, and tied steps.

    heap: the candidates of the block, whose rows lie in block[slot[a]]; bound [candidates].
    outside, outside_index: the best bound of all others, and the lowest index that has it.
    """
    size, ties = len(heap), 0
    seen = np.full(len(slot), -1, np.int64)
    for at in range(size // 2 - 1, -1, -1):
        sift_down(heap, size, at, bound)
    while step < len(order) and size > 0:
        while seen[heap[0]] != step:
            a = heap[0]
            bound[a] = modular[a] + row_gain(block[slot[a]], cover)
            seen[a] = step
            sift_down(heap, size, 0, bound)
        best = heap[0]
        if bound[best] < outside or (bound[best] == outside and outside_index < best):
            break
        order[step], gains[step] = best, bound[best]
        size -= 1
        heap[0] = heap[size]
        sift_down(heap, size, 0, bound)
        while size > 0 and seen[heap[0]] != step and bound[heap[0]] >= gains[step]:
            a = heap[0]
            bound[a] = modular[a] + row_gain(block[slot[a]], cover)
            seen[a] = step
            sift_down(heap, size, 0, bound)
        if size > 0 and bound[heap[0]] == gains[step]:
            ties += 1
        bound[best] = -np.inf
        row = block[slot[best]]
        for i in range(len(cover)):
            cover[i] = max(cover[i], row[i])
        step += 1
    return step, ties


def block_gains(block: Float32, cover: Float32, workers: int = 2) -> Float64:
    """sum_i max(block[k, i] - cover[i], 0) of every row, float64 [len(block)]."""
    out = np.empty(len(block), np.float64)
    cuts = np.linspace(0, len(block), workers + 1).astype(int)
    with ThreadPoolExecutor(workers) as pool:
        parts = [np.s_[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
        list(pool.map(lambda p: _gains(block[p], cover, out[p]), parts))
    return out


def first_gains(rows: SimilarityRows, cover: Float32, memory: int) -> Float64:
    """Every candidate's gain against `cover`, float64 [candidates], by blocks of at most `memory` bytes."""
    candidates, represented = rows.shape
    size = block_rows(candidates, represented, min(memory, 1 << 28))
    buffer = np.empty((size, represented), np.float32)
    out = np.empty(candidates, np.float64)
    for a in range(0, candidates, size):
        b = min(a + size, candidates)
        out[a:b] = block_gains(rows.rows(a, b, buffer[: b - a]), cover)
    return out


def best_matches(rows: SimilarityRows, memory: int) -> Float64:
    """max_i s(i, a) of every candidate, float64 [candidates]."""
    candidates, represented = rows.shape
    size = block_rows(candidates, represented, min(memory, 1 << 28))
    buffer = np.empty((size, represented), np.float32)
    out = np.empty(candidates, np.float64)
    for a in range(0, candidates, size):
        b = min(a + size, candidates)
        _best_matches(rows.rows(a, b, buffer[: b - a]), out[a:b])
    return out


def block_rows(candidates: int, represented: int, memory: int) -> int:
    """How many float32 rows fit into `memory` bytes: at least 2, at most all."""
    return min(candidates, max(2, memory // (4 * represented)))


def run_block_greedy(
    rows: SimilarityRows, cover: Float32, modular: Float64, budget: int, memory: int
) -> tuple[Int64, Float64, int]:
    """Order [budget], gains [budget] and tied steps seen; rows held take at most `memory` bytes.

    cover float32 [represented]: cover_0, left as it is; modular float64 [candidates]. Ties between a pick
    and a candidate outside the block are not counted.
    """
    candidates, represented = rows.shape
    cover = cover.copy()
    # A quarter is left for the pieces in which new rows arrive.
    block = np.empty((block_rows(candidates, represented, memory * 3 // 4), represented), np.float32)
    held = np.full(len(block), -1, np.int64)
    slot = np.full(candidates, -1, np.int64)
    bound = modular + first_gains(rows, cover, memory)
    order, gains = np.empty(budget, np.int64), np.empty(budget, np.float64)
    step, ties = 0, 0
    while step < budget:
        chosen, outside, outside_index = _most_promising(bound, len(block))
        _load(rows, chosen, block, held, slot, cover, modular, bound)
        step, tied = _greedy_in_block(
            block, slot, chosen, cover, modular, bound, outside, outside_index, order, gains, step
        )
        ties += tied
    return order, gains, ties


def _most_promising(bound: Float64, size: int) -> tuple[Int64, float, int]:
    """The `size` candidates of largest bound (equal ones by lower index), and the best bound left."""
    open_ = int(np.count_nonzero(bound > -np.inf))
    if open_ <= size:
        return np.flatnonzero(bound > -np.inf), -np.inf, len(bound)
    cut = np.partition(bound, len(bound) - size)[len(bound) - size]
    above = np.flatnonzero(bound > cut)
    equal = np.flatnonzero(bound == cut)
    chosen = np.concatenate([above, equal[: size - len(above)]])
    rest = bound.copy()
    rest[chosen] = -np.inf
    index = int(np.argmax(rest))
    return chosen, float(rest[index]), index


def _load(
    rows: SimilarityRows,
    chosen: Int64,
    block: Float32,
    held: Int64,
    slot: Slots,
    cover: Float32,
    modular: Float64,
    bound: Float64,
) -> None:
    """Compute the rows of `chosen` that are not held, over rows of candidates that are not chosen."""
    new = chosen[slot[chosen] < 0]
    keep = np.zeros(len(slot), bool)
    keep[chosen] = True
    free = np.flatnonzero((held < 0) | ~keep[held])[: len(new)]
    slot[held[free][held[free] >= 0]] = -1
    held[free] = new
    slot[new] = free
    piece = max(1, min(1024, len(block) // 3))
    for at in range(0, len(new), piece):
        some = new[at : at + piece]
        values = rows.take(some)
        block[slot[some]] = values
        # Fresh bounds now save computing these rows again later.
        bound[some] = modular[some] + block_gains(values, cover)
