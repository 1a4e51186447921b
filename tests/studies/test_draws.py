"""Label designs drawn from a matrix that is known as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from nncift_core.estimator.label_sizes import Costs
from nncift_core.studies import draw


@pytest.mark.parametrize("design", ["block", "scattered", "all-targets"])
def test_a_draw_holds_distinct_pairs_of_the_matrix_at_the_price_of_the_block(design: str) -> None:
    i, j = draw(design, 40, 12, 0.25, seed=3)
    assert len(set(zip(i.tolist(), j.tolist(), strict=True))) == len(i)
    assert i.min() >= 0 and i.max() < 40 and j.min() >= 0 and j.max() < 12
    assert 24 <= len(i) <= 30
    again, other = draw(design, 40, 12, 0.25, seed=3), draw(design, 40, 12, 0.25, seed=4)
    assert np.array_equal(i, again[0]) and np.array_equal(j, again[1])
    assert not (np.array_equal(i, other[0]) and np.array_equal(j, other[1]))


def test_designs_touch_what_their_names_say() -> None:
    block, scattered, whole = (draw(d, 30, 10, 0.3, 0) for d in ("block", "scattered", "all-targets"))
    assert (len(np.unique(block[0])), len(np.unique(block[1]))) == (9, 3)
    assert (len(np.unique(scattered[0])), len(np.unique(scattered[1]))) == (27, 10)
    assert len(np.unique(whole[1])) == 10 and len(whole[0]) == 10 * len(np.unique(whole[0]))


def test_dear_scattered_pairs_are_fewer() -> None:
    # A column is free inside a block; alone, each pair pays for the row it touches.
    costs = Costs(row=5, column=0, pair=1)
    assert len(draw("scattered", 40, 12, 0.25, 0, costs)[0]) < len(draw("scattered", 40, 12, 0.25, 0)[0])


@pytest.mark.parametrize(("design", "u"), [("square", 0.1), ("block", 0.0), ("scattered", 1.5)])
def test_wrong_designs_are_refused(design: str, u: float) -> None:
    with pytest.raises(ValueError):
        draw(design, 20, 10, u, 0)
