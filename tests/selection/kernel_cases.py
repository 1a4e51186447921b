"""Small kernels for the tests of facility location at scale."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nncift_core.selection import EmbeddingRows, TileRows

Float32 = npt.NDArray[np.float32]


def vectors(n: int, seed: int = 0, dimensions: int = 12) -> Float32:
    """n points around 8 centres, [n, dimensions]."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(8, dimensions))
    return (centres[rng.integers(8, size=n)] + 0.5 * rng.normal(size=(n, dimensions))).astype(np.float32)


def embeddings(n: int, seed: int = 0) -> EmbeddingRows:
    return EmbeddingRows(vectors(n, seed))


def sixteenths(candidates: int, represented: int, seed: int = 0) -> Float32:
    """Multiples of 1/16, [represented, candidate]: sums are exact, and ties abound."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 9, size=(represented, candidates)) / 16).astype(np.float32)


def tiles(similarity: Float32) -> TileRows:
    """The matrix [represented, candidate] behind a tile function."""
    shape = similarity.shape[1], similarity.shape[0]
    return TileRows(lambda i, j: similarity.T[np.ix_(i, j)], shape)
