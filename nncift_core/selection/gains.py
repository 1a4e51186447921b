"""What a pick gains and what it covers, on dense and on sparse kernels, compiled by numba.

A kernel is either dense, rows [candidate, represented] with s[i, a] at rows[a, i], or sparse, CSR
arrays by candidate (`neighbours.py`), where what is not stored adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import overload

from nncift_core.selection.result import Floating, Int64

_F = TypeVar("_F", bound=Callable[..., Any])
Csr = tuple[Int64, npt.NDArray[np.int32], Floating]
Kernel = Floating | Csr


def compiled_sum(function: _F) -> _F:
    """`compiled`, free to split sums over vector lanes: one order for a length, three times as fast.

    Nothing else of fastmath: each difference stays what float arithmetic says.
    """
    return cast(_F, numba.njit(cache=True, nogil=True, fastmath={"reassoc"})(function))


@compiled_sum
def row_gain(row: Floating, cover: Floating) -> float:
    """sum_i max(row[i] - cover[i], 0); row, cover [represented]."""
    zero = row.dtype.type(0)
    total = 0.0
    for i in range(len(row)):
        total += max(row[i] - cover[i], zero)
    return total


@compiled_sum
def _csr_gain(indices: npt.NDArray[np.int32], values: Floating, cover: Floating) -> float:
    zero = values.dtype.type(0)
    total = 0.0
    for k in range(len(indices)):
        total += max(values[k] - cover[indices[k]], zero)
    return total


@compiled_sum
def _total(row: Floating) -> float:
    """sum_i row[i], in float64."""
    total = 0.0
    for i in range(len(row)):
        total += row[i]
    return total


def gain_of(kernel: Kernel, a: int, cover: Floating) -> float:
    """sum_i max(s[i, a] - cover[i], 0), in compiled code only."""
    raise NotImplementedError("gain_of runs in compiled code only")


def total_of(kernel: Kernel, a: int) -> float:
    """sum_i s[i, a], in compiled code only."""
    raise NotImplementedError("total_of runs in compiled code only")


def absorb(kernel: Kernel, a: int, cover: Floating) -> None:
    """cover[i] = max(cover[i], s[i, a]), in compiled code only."""
    raise NotImplementedError("absorb runs in compiled code only")


def _gain_of(kernel: Any, a: Any, cover: Any) -> Any:
    def dense(kernel: Any, a: Any, cover: Any) -> Any:
        return row_gain(kernel[a], cover)

    def sparse(kernel: Any, a: Any, cover: Any) -> Any:
        starts, indices, values = kernel
        return _csr_gain(indices[starts[a] : starts[a + 1]], values[starts[a] : starts[a + 1]], cover)

    return dense if isinstance(kernel, types.Array) else sparse


def _total_of(kernel: Any, a: Any) -> Any:
    def dense(kernel: Any, a: Any) -> Any:
        return _total(kernel[a])

    def sparse(kernel: Any, a: Any) -> Any:
        starts, _, values = kernel
        return _total(values[starts[a] : starts[a + 1]])

    return dense if isinstance(kernel, types.Array) else sparse


def _absorb(kernel: Any, a: Any, cover: Any) -> Any:
    def dense(kernel: Any, a: Any, cover: Any) -> Any:
        row = kernel[a]
        for i in range(len(cover)):
            cover[i] = max(cover[i], row[i])

    def sparse(kernel: Any, a: Any, cover: Any) -> Any:
        starts, indices, values = kernel
        for k in range(starts[a], starts[a + 1]):
            i = indices[k]
            cover[i] = max(cover[i], values[k])

    return dense if isinstance(kernel, types.Array) else sparse


overload(gain_of)(_gain_of)
overload(total_of)(_total_of)
overload(absorb)(_absorb)
