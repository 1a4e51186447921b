"""Greedy by torch on a device gives the picks of the CPU's lazy greedy, ties included."""

from __future__ import annotations

import numpy as np
import pytest
from selection.kernel_cases import embeddings, sixteenths, tiles

from nncift_core.selection.device import run_device_greedy
from nncift_core.selection.kernels import materialise
from nncift_core.selection.lazy_greedy import run_lazy_greedy


@pytest.mark.parametrize("batch", [1, 7, 256])
@pytest.mark.parametrize("seed", range(3))
def test_equals_lazy_greedy_with_ties(seed: int, batch: int) -> None:
    rows = tiles(sixteenths(50, 11, seed))
    cover = (np.arange(11) % 3 / 16).astype(np.float32)
    modular = np.random.default_rng(seed).integers(0, 3, size=50) / 16
    order, gains, ties = run_device_greedy(rows, cover, modular, 50, "cpu", batch=batch)
    expected = run_lazy_greedy(materialise(rows), cover, modular, 50, signed=False)
    assert order.tolist() == expected[0].tolist()
    assert gains.tolist() == expected[1].tolist()
    assert ties == expected[2]


def test_embeddings_that_do_not_fit_are_computed_again() -> None:
    rows, cover, modular = embeddings(200), np.zeros(200, np.float32), np.zeros(200)
    resident = run_device_greedy(rows, cover, modular, 50, "cpu")
    computed = run_device_greedy(rows, cover, modular, 50, "cpu", memory=1000)
    assert resident[0].tolist() == computed[0].tolist()
    assert resident[1] == pytest.approx(computed[1], abs=1e-3)
    with pytest.raises(ValueError, match="leave out device, or give the similarity as EmbeddingRows"):
        run_device_greedy(tiles(sixteenths(50, 11)), cover[:11], modular[:50], 5, "cpu", memory=1000)
