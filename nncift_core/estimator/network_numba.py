"""The network's matrix on the CPU at the machine's limit: one maximum and one addition per unit and pair.

`network_signed` says why that is enough. A and B lie in strips of 64 examples, [unit, example]; a tile of 256
rows x 64 columns stays in the first two caches. The first layer is computed here too, not by a library:
every entry is summed in the same order whatever the tile, the thread or the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.network_calibration import usable_threads
from nncift_core.estimator.network_loops import ROWS, STRIP, first_layer, second_layer
from nncift_core.estimator.network_signed import SignedNetwork

if TYPE_CHECKING:
    from nncift_core.estimator.network import InfluenceNetwork

Float32 = npt.NDArray[np.float32]
Job = Callable[[], None]

# Units times examples of a prepared side: 16 MB, however many rows and columns there are.
_BLOCK_FLOATS = 1 << 22
# What one thread does at a time; multiples of a strip.
_SIDE_ROWS = 256
_PAIR_ROWS, _PAIR_COLUMNS = 256, 4096


def predict(
    network: InfluenceNetwork, rows: npt.NDArray[Any], columns: npt.NDArray[Any], out: Float32
) -> None:
    """Fill out [m, n] with raw-scale influence of rows [m, d] on columns [n, d_column].

    An entry has the same bits in whatever matrix and by however many threads it is computed. An embedding
    that is not finite gives NaN all along its row or column. Shapes are the caller's to check.
    """
    signed = SignedNetwork.of(network)
    step = max(STRIP, _BLOCK_FLOATS // max(1, signed.units) // STRIP * STRIP)
    row_weights, column_weights = _panels(signed.W_rows), _panels(signed.W_columns)
    no_bias = np.zeros_like(signed.row_bias)
    with ThreadPoolExecutor(usable_threads()) as pool:
        for c in range(0, len(columns), step):
            B = _side(pool, columns[c : c + step], column_weights, no_bias)
            column_term = _term(signed.offset, -1, B, min(step, len(columns) - c))
            for r in range(0, len(rows), step):
                A = _side(pool, rows[r : r + step], row_weights, signed.row_bias)
                row_term = _term(signed.shift, 0, A, min(step, len(rows) - r))
                block = out[r : r + len(row_term), c : c + len(column_term)]
                _finish(pool, _pair_jobs(signed, A, B, row_term, column_term, block))


def _side(pool: ThreadPoolExecutor, x: npt.NDArray[Any], weights: Float32, bias: Float32) -> Float32:
    """A or B: [strips, padded units, 64]."""
    bias = np.pad(bias, (0, ROWS * len(weights) - len(bias)))
    out = np.empty((_up(len(x), STRIP) // STRIP, len(bias), STRIP), np.float32)

    def job(first: int) -> Job:
        def run() -> None:
            part = np.ascontiguousarray(x[first : first + _SIDE_ROWS], np.float32)
            strips = out[first // STRIP : (first + _SIDE_ROWS) // STRIP]
            first_layer(_read_only(part), weights, bias, strips)

        return run

    _finish(pool, (job(first) for first in range(0, len(x), _SIDE_ROWS)))
    return out


def _pair_jobs(
    signed: SignedNetwork, A: Float32, B: Float32, row_term: Float32, column_term: Float32, out: Float32
) -> Iterator[Job]:
    def job(top: int, left: int) -> Job:
        def run() -> None:
            here = out[top : top + _PAIR_ROWS, left : left + _PAIR_COLUMNS]
            # The compiled loop wants columns side by side; any other layout is copied tile by tile.
            plain = here.strides[1] == 4 and here.strides[0] > 0 and here.strides[0] % 4 == 0
            tile = here if plain else np.empty(here.shape, np.float32)
            distance = tile.strides[0] // 4
            size = (len(tile) - 1) * distance + tile.shape[1]
            second_layer(
                A[top // STRIP : (top + _PAIR_ROWS) // STRIP],
                B[left // STRIP : (left + _PAIR_COLUMNS) // STRIP],
                signed.positive,
                signed.units,
                row_term[top : top + _PAIR_ROWS],
                column_term[left : left + _PAIR_COLUMNS],
                np.lib.stride_tricks.as_strided(tile, (size,), (4,)),
                distance,
            )
            if not plain:
                here[:] = tile

        return run

    tops, lefts = range(0, len(out), _PAIR_ROWS), range(0, out.shape[1], _PAIR_COLUMNS)
    return (job(top, left) for top, left in product(tops, lefts))


def _finish(pool: ThreadPoolExecutor, jobs: Iterable[Job]) -> None:
    for done in [pool.submit(job) for job in jobs]:
        done.result()


def _term(constant: float, factor: int, side: Float32, n: int) -> Float32:
    """constant + factor * (sum over units), [n]; NaN where that sum is not finite."""
    with np.errstate(invalid="ignore"):
        total = side.sum(axis=1, dtype=np.float64).ravel()[:n]
        term = constant + factor * total
    return np.where(np.isfinite(total), term, np.nan).astype(np.float32)


def _panels(W: Float32) -> Float32:
    """W [units, d] -> [padded units / 4, d, 4]: four units side by side, those added have weights of 0."""
    units, d = W.shape
    padded = np.zeros((_up(units, ROWS), d), np.float32)
    padded[:units] = W
    return np.ascontiguousarray(padded.reshape(len(padded) // ROWS, ROWS, d).swapaxes(1, 2))


def _read_only(x: Float32) -> Float32:
    # A read-only array is another type to numba: with this view, one compilation serves both.
    view = x.view()
    view.flags.writeable = False
    return view


def _up(n: int, step: int) -> int:
    return -(-n // step) * step
