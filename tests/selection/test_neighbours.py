"""Nearest candidates by exact search, and greedy on them."""

from __future__ import annotations

import numpy as np
import pytest
from selection.kernel_cases import sixteenths, tiles

from nncift_core.selection.kernels import Float32, materialise
from nncift_core.selection.lazy_greedy import run_lazy_greedy
from nncift_core.selection.neighbours import nearest


def kept(whole: Float32, k: int, least: Float32) -> Float32:
    """The kernel [candidate, represented] with 0 where a value is not among the k best above `least`."""
    out = np.zeros_like(whole)
    for i in range(whole.shape[1]):
        best = np.argsort(-whole[:, i], kind="stable")[:k]
        best = best[whole[best, i] > least[i]]
        out[best, i] = whole[best, i]
    return out


@pytest.mark.parametrize("k", [1, 2, 5, 30])
@pytest.mark.parametrize("memory", [1, 500, 1 << 20])
def test_lists_and_greedy_equal_the_dense_kernel_with_zeros(k: int, memory: int) -> None:
    rows = tiles(sixteenths(30, 21, seed=k))
    least = (np.arange(21) % 4 / 16).astype(np.float32)
    kernel = nearest(rows, k, least, memory)
    expected = kept(materialise(rows), k, least)
    got = np.zeros_like(expected)
    for a in range(30):
        span = slice(kernel.starts[a], kernel.starts[a + 1])
        got[a, kernel.indices[span]] = kernel.values[span]
    assert (got == expected).all()
    stored = [v[v > 0] for v in expected.T]
    smallest = [v.min() if len(v) == k else low for v, low in zip(stored, least, strict=True)]
    assert kernel.least.tolist() == smallest
    modular = np.arange(30) % 3 / 16
    sparse = run_lazy_greedy(kernel.csr, least, modular, 30, signed=False)
    dense = run_lazy_greedy(expected, least, modular, 30, signed=False)
    assert [part.tolist() for part in sparse[:2]] == [part.tolist() for part in dense[:2]]
    assert sparse[2] == dense[2]


def test_number_of_neighbours_outside_the_candidates_is_refused() -> None:
    for k in (0, 31):
        with pytest.raises(ValueError, match=rf"neighbours is {k}, but must lie in 1\.\.30"):
            nearest(tiles(sixteenths(30, 4)), k, np.zeros(4, np.float32))
