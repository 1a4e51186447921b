"""What is kept of a matrix while its tiles are produced, so that nothing needs a second pass.

Row means by target task, every column's best rows, smallest and largest value, a histogram. A tile is read
while it is in cache, and may then be forgotten: a matrix of any size is reduced in memory that grows with
its rows and columns, not with their product.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from nncift_core.estimator.contract import Float32, Float64, Int64
from nncift_core.estimator.network_calibration import usable_threads

BINS = 256
_CHUNK = 512


@dataclass(frozen=True, eq=False)
class Reduced:
    """What is left of a matrix [M, N] whose columns belong to T tasks.

    scores [M, T]: mean over a task's columns; top_rows, top_values [N, k]: the rows of highest value of each
    column, best first (equal values: lowest row first; -1 and -inf where there are fewer than k rows);
    low, high: smallest and largest value; counts [BINS], edges [BINS + 1]: histogram; marked [BINS]: the
    marked ones among them (exact values, say); pairs: how many values there were.
    """

    scores: Float32
    top_rows: Int64
    top_values: Float32
    low: float
    high: float
    counts: Int64
    marked: Int64
    edges: Float64
    pairs: int

    @property
    def best(self) -> Float32:
        """One score per row: that of its best task, [M]."""
        out: Float32 = self.scores.max(axis=1)
        return out


class Reduction:
    """Collects `Reduced` from tiles, each pair of the matrix given once, in any order.

    rows: M; tasks [N]: number 0..T-1 of each column's task, each with at least one column; k: best rows kept
    per column; span: (low, high) of the histogram's edges at first, from the first tile when unset. Values
    beyond make the span twice as wide, as often as that takes: then two bins become one.
    """

    def __init__(
        self, rows: int, tasks: Int64, *, k: int = 16, span: tuple[float, float] | None = None
    ) -> None:
        counts = np.bincount(tasks)
        if (counts == 0).any():
            raise ValueError(f"task {int(np.argmin(counts))} has no columns")
        n = len(tasks)
        # One product with this matrix sums a tile's rows by task.
        self._share = np.zeros((n, len(counts)), np.float32)
        self._share[np.arange(n), tasks] = (1 / counts[tasks]).astype(np.float32)
        self._scores = np.zeros((rows, len(counts)), np.float64)
        self._top = np.full((n, k), -np.inf, np.float32)
        self._top_rows = np.full((n, k), -1, np.int64)
        self._span = span
        chunks = -(-n // _CHUNK)
        self._low, self._high = np.full(chunks, np.inf, np.float32), np.full(chunks, -np.inf, np.float32)
        self._counts = np.zeros((chunks, BINS), np.int64)
        self._marked = np.zeros(BINS, np.int64)
        self._pairs = 0

    def add(
        self,
        first_row: int,
        first_column: int,
        tile: Float32,
        marked: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """A tile [r, c] whose corner is (first_row, first_column); marked [r, c]: which values count apart.

        Raises ValueError for a value that is not finite.
        """
        if not tile.size:
            return
        r, c = tile.shape
        sums = tile @ self._share[first_column : first_column + c]
        if not np.isfinite(sums).all() and not np.isfinite(tile).all():
            raise ValueError(f"{int((~np.isfinite(tile)).sum())} influence values are not finite")
        self._scores[first_row : first_row + r] += sums
        low, per_bin = self._widened(float(tile.min()), float(tile.max()))

        def reduce(chunk: int) -> None:
            start = max(0, chunk * _CHUNK - first_column)
            stop = min(c, (chunk + 1) * _CHUNK - first_column)
            columns = slice(first_column + start, first_column + stop)
            _reduce(
                tile[:, start:stop], first_row, self._top[columns], self._top_rows[columns],
                low, per_bin, self._low[chunk : chunk + 1], self._high[chunk : chunk + 1],
                self._counts[chunk],
            )  # fmt: skip

        chunks = range(first_column // _CHUNK, -(-(first_column + c) // _CHUNK))
        # Threads of our own: those of numba may not be used by two callers at once.
        with ThreadPoolExecutor(usable_threads()) as pool:
            for done in [pool.submit(reduce, chunk) for chunk in chunks]:
                done.result()
        if marked is not None and marked.any():
            bins = np.empty(int(marked.sum()), np.int32)
            _bins(tile[marked], low, per_bin, np.float64(BINS - 1), bins)
            self._marked += np.bincount(bins, minlength=BINS)
        self._pairs += tile.size

    def _widened(self, smallest: float, largest: float) -> tuple[np.float64, np.float64]:
        """(lower edge, bins per unit) of a span that holds both values."""
        if self._span is None:
            margin = 0.1 * (largest - smallest) or 0.1 * abs(largest) or 1.0
            self._span = smallest - margin, largest + margin
        low, high = self._span
        while smallest < low or largest > high:
            upwards, width = largest > high, high - low
            low, high = (low, high + width) if upwards else (low - width, high)
            for counts in (self._counts, self._marked[None]):
                merged = counts.reshape(len(counts), BINS // 2, 2).sum(axis=2)
                counts[:] = 0
                half = slice(0, BINS // 2) if upwards else slice(BINS // 2, BINS)
                counts[:, half] = merged
        self._span = low, high
        return np.float64(low), np.float64(BINS / (high - low))

    @property
    def edges(self) -> Float64:
        """Edges of the histogram, [BINS + 1]. Raises ValueError before the first tile."""
        if self._span is None:
            raise ValueError("no tile was given")
        return np.linspace(*self._span, BINS + 1)

    def result(self) -> Reduced:
        """What was collected. Raises ValueError when nothing was."""
        edges = self.edges
        # Rows come in any order from several workers: equal values are put in the order of rows.
        order = np.lexsort((np.where(self._top_rows < 0, 1 << 62, self._top_rows), -self._top), axis=1)
        return Reduced(
            self._scores.astype(np.float32),
            np.take_along_axis(self._top_rows, order, axis=1),
            np.take_along_axis(self._top, order, axis=1),
            float(self._low.min()),
            float(self._high.max()),
            self._counts.sum(axis=0),
            self._marked,
            edges,
            self._pairs,
        )


@numba.njit(cache=True, nogil=True)
def _reduce(
    tile: Float32,
    first_row: int,
    top: Float32,
    top_rows: Int64,
    low: np.float64,
    per_bin: np.float64,
    lows: Float32,
    highs: Float32,
    counts: Int64,
) -> None:
    """A tile within one chunk of columns; lows, highs [1]."""
    rows, n = tile.shape
    smallest, largest = lows[0], highs[0]
    worst, bins = top[:, -1].copy(), np.empty(n, np.int32)
    # Four sets of counters: neighbours of one bin would wait for each other's sum.
    each = np.zeros((4, len(counts)), np.int64)
    last = np.float64(len(counts) - 1)
    for i in range(rows):
        row = tile[i]
        smallest, largest, passes = _look(row, worst, smallest, largest)
        _bins(row, low, per_bin, last, bins)
        for c in range(0, n - 3, 4):
            each[0, bins[c]] += 1
            each[1, bins[c + 1]] += 1
            each[2, bins[c + 2]] += 1
            each[3, bins[c + 3]] += 1
        for c in range(n - n % 4, n):
            each[0, bins[c]] += 1
        if passes:
            for c in range(n):
                if row[c] >= worst[c]:
                    _insert(top[c], top_rows[c], row[c], first_row + i)
                    worst[c] = top[c, -1]
    counts += each.sum(axis=0)
    lows[0], highs[0] = smallest, largest


# No reassociation: the marked values are binned by a call of their own, and must fall into the same bins.
@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _bins(
    row: Float32, low: np.float64, per_bin: np.float64, last: np.float64, out: npt.NDArray[np.int32]
) -> None:
    """The bin of every value."""
    for c in range(len(row)):
        out[c] = np.int32(min(max((np.float64(row[c]) - low) * per_bin, 0.0), last))


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "reassoc"})
def _look(
    row: Float32, worst: Float32, smallest: np.float32, largest: np.float32
) -> tuple[np.float32, np.float32, bool]:
    """Extremes so far, and whether any value is among the best of its column."""
    passes = 0
    for c in range(len(row)):
        v = row[c]
        smallest, largest = min(smallest, v), max(largest, v)
        passes += v >= worst[c]
    return smallest, largest, passes > 0


@numba.njit(cache=True, nogil=True)
def _insert(values: Float32, rows: Int64, v: np.float32, row: int) -> None:
    """Keep the best in falling order; of equal values the lowest rows stay."""
    k = len(values) - 1
    if v == values[k] and 0 <= rows[k] < row:
        return
    while k > 0 and (v > values[k - 1] or (v == values[k - 1] and row < rows[k - 1])):
        values[k], rows[k] = values[k - 1], rows[k - 1]
        k -= 1
    values[k], rows[k] = v, row
