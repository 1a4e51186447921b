"""Kernels computed on the fly: equal to their plain formula, part by part, and refusing wrong input."""

from __future__ import annotations

import numpy as np
import pytest
from selection.kernel_cases import sixteenths, tiles, vectors

from nncift_core.selection import DenseRows, EmbeddingRows, SimilarityRows
from nncift_core.selection.kernels import Metric, TileRows, materialise


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x.astype(np.float64), y.astype(np.float64)
    return (x @ y.T) / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1))


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-6), (np.float16, 2e-3)])
@pytest.mark.parametrize("metric", ["shifted-cosine", "cosine", "inner"])
def test_embeddings_against_the_formula(metric: Metric, dtype: type, tolerance: float) -> None:
    x, y = vectors(17).astype(dtype), vectors(9, seed=1).astype(dtype)
    wide = x.astype(np.float64) @ y.astype(np.float64).T
    expected = {"shifted-cosine": (1 + cosine(x, y)) / 2, "cosine": cosine(x, y), "inner": wide}[metric]
    kernel = EmbeddingRows(x, y, metric)
    assert kernel.shape == (17, 9)
    got = materialise(kernel, block=5)
    assert got.dtype == np.float32
    assert got == pytest.approx(expected, abs=tolerance * max(1, float(np.abs(expected).max())))


def test_embeddings_wider_than_one_piece_of_columns() -> None:
    x, y = vectors(3), vectors(8200, seed=1)
    assert EmbeddingRows(x, y).rows(0, 3) == pytest.approx((1 + cosine(x, y)) / 2, abs=1e-6)


@pytest.mark.parametrize("kind", ["embeddings", "tiles", "dense"])
def test_rows_take_and_part_agree(kind: str) -> None:
    matrix = sixteenths(11, 7)
    kernel: SimilarityRows = {
        "embeddings": EmbeddingRows(vectors(11), vectors(7, seed=1)),
        "tiles": tiles(matrix),
        "dense": DenseRows(matrix),
    }[kind]
    assert isinstance(kernel, SimilarityRows)
    whole = materialise(kernel)
    some, items = np.array([9, 0, 4]), np.array([6, 2])
    assert kernel.rows(2, 6) == pytest.approx(whole[2:6], abs=1e-6)
    assert kernel.take(some) == pytest.approx(whole[some], abs=1e-6)
    assert materialise(kernel.part(some)) == pytest.approx(whole[some], abs=1e-6)
    assert materialise(kernel.part(some, items)) == pytest.approx(whole[np.ix_(some, items)], abs=1e-6)
    out = np.empty((3, 7), np.float32)
    assert kernel.take(some, out) is out
    assert out == pytest.approx(whole[some], abs=1e-6)


def test_wrong_embeddings_are_refused() -> None:
    x = vectors(4)
    with pytest.raises(ValueError, match="metric is 'dot', but must be shifted-cosine, cosine or inner"):
        EmbeddingRows(x, metric="dot")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="candidates have 12 dimensions, but represented have 5"):
        EmbeddingRows(x, x[:, :5])
    with pytest.raises(ValueError, match=r"represented\[row 2\] is all zeros.*or use inner"):
        EmbeddingRows(x, np.array([x[0], x[1], 0 * x[0]]))
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"candidates\[row 3, dimension 1\] is nan"):
        EmbeddingRows(x)


def test_wrong_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gave \(2, 5\) for 2 candidates and 4 represented"):
        TileRows(lambda i, j: np.zeros((len(i), 5)), (3, 4)).rows(0, 2)
    with pytest.raises(ValueError, match=r"tile\[candidate 0, represented 0\] is inf"):
        TileRows(lambda i, j: np.full((len(i), len(j)), np.inf), (3, 4)).rows(0, 2)
    with pytest.raises(ValueError, match=r"shape is \(0, 4\)"):
        TileRows(lambda i, j: np.zeros((len(i), len(j))), (0, 4))
