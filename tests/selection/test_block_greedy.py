"""Greedy by blocks makes the picks of lazy greedy on the whole kernel, whatever the block."""

from __future__ import annotations

import numpy as np
import pytest
from selection.kernel_cases import embeddings, sixteenths, tiles

from nncift_core.selection import SimilarityRows
from nncift_core.selection.block_greedy import best_matches, run_block_greedy
from nncift_core.selection.kernels import Float32, materialise
from nncift_core.selection.lazy_greedy import run_lazy_greedy


@pytest.mark.parametrize("block", [2, 3, 17, 60])
@pytest.mark.parametrize("seed", range(4))
def test_equals_lazy_greedy_with_ties(seed: int, block: int) -> None:
    rows = tiles(sixteenths(60, 13, seed))
    rng = np.random.default_rng(seed)
    cover = (rng.integers(0, 6, size=13) / 16).astype(np.float32)
    modular = rng.integers(0, 3, size=60) / 16
    order, gains, _ = run_block_greedy(rows, cover, modular, 60, memory=block * 4 * 13)
    expected = run_lazy_greedy(materialise(rows), cover, modular, 60, signed=False)
    assert order.tolist() == expected[0].tolist()
    assert gains.tolist() == expected[1].tolist()


def test_reads_no_block_larger_than_its_memory_and_leaves_the_cover() -> None:
    kernel, largest = embeddings(300), [0]

    class Watched:
        shape = kernel.shape

        def rows(self, a: int, b: int, out: Float32 | None = None) -> Float32:
            largest[0] = max(largest[0], b - a)
            return kernel.rows(a, b, out)

        def take(self, candidates: np.ndarray, out: Float32 | None = None) -> Float32:
            largest[0] = max(largest[0], len(candidates))
            return kernel.take(candidates, out)

        def part(self, candidates: np.ndarray, represented: np.ndarray | None = None) -> SimilarityRows:
            return kernel.part(candidates, represented)

    cover = np.zeros(300, np.float32)
    order, gains, _ = run_block_greedy(Watched(), cover, np.zeros(300), 60, memory=40 * 4 * 300)
    expected = run_lazy_greedy(materialise(kernel), cover, 0.0, 60, signed=False)
    assert largest[0] == 40
    assert not cover.any()
    assert order.tolist() == expected[0].tolist()
    assert gains == pytest.approx(expected[1], abs=1e-4)


def test_best_matches_are_row_maxima() -> None:
    rows = tiles(sixteenths(30, 5))
    assert best_matches(rows, memory=200).tolist() == materialise(rows).max(axis=1).tolist()
