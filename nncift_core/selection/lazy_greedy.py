"""Lazy greedy (Minoux 1978) for objectives of the facility location family, compiled by numba.

Every objective of the family is, up to a constant, a running maximum plus a modular term:
    f(A) = sum_i max(cover_0[i], max_{a in A} s[i, a]) + sum_{a in A} modular[a]
so that the gain of candidate a, given cover[i] = max(cover_0[i], max_{b in A} s[i, b]), is
    gain(a) = sum_i max(s[i, a] - cover[i], 0) + modular[a].
Gains only fall as A grows, so a gain from an earlier step bounds the present one from above. The
heap holds these stale bounds; only its top is evaluated anew until the top is fresh.

Exactness: each difference is rounded in the matrix's own type, and the differences are added up
in float64 in one order, set when the machine compiles it. Rounding is monotone, so computed gains
fall too, never only the true ones: the picks are those of a greedy that evaluates everything, ties
included.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# Compiled with the loops of gains.py 7cc42c8328af: tests/selection/test_compiled.py asks.
from nncift_core.compiled import compiled
from nncift_core.selection.gains import Kernel, absorb, gain_of, total_of
from nncift_core.selection.result import Float64, Floating, Int64


@compiled
def sift_down(heap: Int64, size: int, at: int, bound: Float64) -> None:
    """Restore heap order below `at`: larger bound first, equal bounds by lower candidate."""
    item = heap[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        other = child + 1
        if other < size:
            a, b = heap[child], heap[other]
            if bound[b] > bound[a] or (bound[b] == bound[a] and b < a):
                child = other
        a = heap[child]
        if bound[a] < bound[item] or (bound[a] == bound[item] and a > item):
            break
        heap[at] = a
        at = child
    heap[at] = item


@compiled
def _refresh_all(
    kernel: Kernel, cover: Floating, modular: Float64, heap: Int64, size: int, bound: Float64, signed: bool
) -> None:
    """Evaluate every candidate left in the heap and rebuild it; `signed`: against the empty set."""
    for k in range(size):
        a = heap[k]
        bound[a] = modular[a] + (total_of(kernel, a) if signed else gain_of(kernel, a, cover))
    for at in range(size // 2 - 1, -1, -1):
        sift_down(heap, size, at, bound)


@compiled
def _freshen_top(
    kernel: Kernel,
    cover: Floating,
    modular: Float64,
    heap: Int64,
    size: int,
    bound: Float64,
    seen: Int64,
    step: int,
    least: float,
) -> None:
    """Evaluate tops until the top is fresh (seen at `step`) or its bound lies below `least`."""
    while size > 0 and seen[heap[0]] != step and bound[heap[0]] >= least:
        a = heap[0]
        bound[a] = modular[a] + gain_of(kernel, a, cover)
        seen[a] = step
        sift_down(heap, size, 0, bound)


@compiled
def lazy_greedy(
    kernel: Kernel, cover: Floating, modular: Float64, budget: int, signed: bool
) -> tuple[Int64, Float64, int]:
    """Pick `budget` candidates greedily: order [budget], gains [budget], number of tied steps.

    kernel: rows [candidate, represented], C-contiguous, s[i, a] at rows[a, i]; or CSR by candidate,
    where what is not stored adds nothing. cover [represented], same type: cover_0 on entry,
    overwritten. modular [candidate]. Equal gains go to the lowest index.

    signed: f(empty) = 0 while the maximum over a set that is not empty may be negative, that is,
    cover_0 = -inf except that the first gain is sum_i s[i, a] + modular[a] instead of infinite.
    The first gains then bound nothing, so everything is evaluated again at the second step.
    """
    candidates = len(modular)
    heap = np.arange(candidates)
    bound = np.empty(candidates, np.float64)
    seen = np.zeros(candidates, np.int64)
    order = np.empty(budget, np.int64)
    gains = np.empty(budget, np.float64)
    size, ties = candidates, 0
    _refresh_all(kernel, cover, modular, heap, size, bound, signed)
    for step in range(budget):
        if signed and step == 1:
            _refresh_all(kernel, cover, modular, heap, size, bound, False)
            seen[:] = step
        _freshen_top(kernel, cover, modular, heap, size, bound, seen, step, -np.inf)
        best = heap[0]
        order[step], gains[step] = best, bound[best]
        size -= 1
        heap[0] = heap[size]
        sift_down(heap, size, 0, bound)
        _freshen_top(kernel, cover, modular, heap, size, bound, seen, step, bound[best])
        if size > 0 and bound[heap[0]] == bound[best]:
            ties += 1
        absorb(kernel, best, cover)
    return order, gains, ties


def run_lazy_greedy(
    kernel: Kernel, cover: Floating, modular: npt.ArrayLike, budget: int, *, signed: bool
) -> tuple[Int64, Float64, int]:
    """`lazy_greedy` on a read-only view of `kernel`, leaving the caller's `cover` untouched."""
    # A read-only array is another type to numba: with this view, one compilation serves both.
    candidates = len(kernel[0]) - 1 if isinstance(kernel, tuple) else len(kernel)
    view = (
        (_read_only(kernel[0]), _read_only(kernel[1]), _read_only(kernel[2]))
        if isinstance(kernel, tuple)
        else _read_only(kernel)
    )
    constants = np.broadcast_to(np.asarray(modular, np.float64), candidates).copy()
    return lazy_greedy(view, cover.copy(), constants, budget, signed)


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view
