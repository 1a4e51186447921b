"""What tiles are reduced to equals what the whole matrix gives, whatever the tiles and their order."""

from __future__ import annotations

import numpy as np
import pytest

from nncift_core.estimator.reductions import BINS, Reduction

M, N, T = 61, 37, 3
RNG = np.random.default_rng(0)
TASKS = RNG.permutation(np.arange(N) % T)
# Few distinct values, so that many are equal.
MATRIX = RNG.integers(-9, 10, (M, N)).astype(np.float32) / 4


def reduced(rows: int, columns: int, order: int = 1, **settings):
    found = Reduction(M, TASKS, **settings)
    corners = [(r, c) for r in range(0, M, rows) for c in range(0, N, columns)][::order]
    for r, c in corners:
        found.add(r, c, np.ascontiguousarray(MATRIX[r : r + rows, c : c + columns]))
    return found.result()


@pytest.mark.parametrize("rows, columns, order", [(M, N, 1), (7, N, 1), (1, 1, 1), (16, 10, -1)])
def test_tiles_give_what_the_whole_matrix_gives(rows: int, columns: int, order: int):
    found = reduced(rows, columns, order, k=5, span=(-3.0, 3.0))
    best = np.argsort(-MATRIX.T, axis=1, kind="stable")[:, :5]
    assert np.array_equal(found.top_rows, best)
    assert np.array_equal(found.top_values, np.take_along_axis(MATRIX.T, best, axis=1))
    scores = np.stack([MATRIX[:, t == TASKS].mean(axis=1) for t in range(T)], axis=1)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    np.testing.assert_array_equal(found.best, found.scores.max(axis=1))
    assert (found.low, found.high, found.pairs) == (MATRIX.min(), MATRIX.max(), M * N)
    expected, _ = np.histogram(MATRIX, BINS, (-3.0, 3.0))
    assert np.abs(found.counts - expected).sum() <= 2 * (MATRIX % (6 / BINS) < 1e-6).sum()
    assert found.counts.sum() == M * N


def test_more_columns_than_a_chunk():
    n = 1100
    matrix = RNG.normal(size=(20, n)).astype(np.float32)
    found = Reduction(20, np.zeros(n, np.int64), k=3)
    for c in (0, 700):
        found.add(0, c, np.ascontiguousarray(matrix[:, c : c + 700]))
    got = found.result()
    assert np.array_equal(got.top_rows, np.argsort(-matrix.T, axis=1, kind="stable")[:, :3])
    assert (got.low, got.high, got.counts.sum()) == (matrix.min(), matrix.max(), matrix.size)


@pytest.mark.parametrize("span", [(-1.0, 1.0), (3.0, 3.5), (-9.0, -8.0), None])
def test_values_beyond_the_span_widen_it(span: tuple[float, float] | None):
    found = Reduction(M, TASKS, span=span)
    for first in range(M):
        found.add(first, 0, MATRIX[first : first + 1])
    got = found.result()
    assert got.edges[0] <= MATRIX.min() and got.edges[-1] >= MATRIX.max()
    expected, _ = np.histogram(MATRIX.astype(float), got.edges)
    # A value on an edge may be counted on either side of it.
    assert np.abs(np.cumsum(got.counts - expected)).max() <= np.unique(MATRIX, return_counts=True)[1].max()
    assert got.counts.sum() == M * N


@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (1e-3, 1000.0), (0.0, 1e9), (1e-38, 0.0), (1e30, 0.0)])
def test_marked_values_are_a_part_of_their_bins(scale: float, shift: float):
    values = (RNG.normal(size=(M, N)) * scale + shift).astype(np.float32)
    marked = RNG.random((M, N)) < 0.3
    found, every = Reduction(M, TASKS), Reduction(M, TASKS)
    for first in range(0, M, 9):
        here = slice(first, first + 9)
        found.add(first, 0, values[here], marked[here])
        every.add(first, 0, values[here], np.ones_like(marked[here]))
    got = found.result()
    assert (got.marked <= got.counts).all() and got.marked.sum() == marked.sum()
    everything = every.result()
    assert np.array_equal(everything.marked, everything.counts)


def test_fewer_rows_than_are_kept_leave_gaps():
    found = Reduction(2, TASKS, k=4)
    found.add(0, 0, MATRIX[:2])
    got = found.result()
    assert (got.top_rows[:, 2:] == -1).all() and np.isneginf(got.top_values[:, 2:]).all()
    assert np.array_equal(np.sort(got.top_rows[:, :2]), np.tile([0, 1], (N, 1)))


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="task 1 has no columns"):
        Reduction(2, np.array([0, 2]))
    with pytest.raises(ValueError, match="no tile was given"):
        Reduction(2, TASKS).result()
    bad = MATRIX.copy()
    bad[3, 4] = np.nan
    with pytest.raises(ValueError, match="1 influence values are not finite"):
        Reduction(M, TASKS).add(0, 0, bad)


def test_a_constant_matrix_has_a_histogram():
    found = Reduction(3, np.zeros(4, np.int64))
    found.add(0, 0, np.full((3, 4), 2.5, np.float32))
    assert found.result().counts.sum() == 12
