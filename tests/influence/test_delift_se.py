"""DELIFT (SE) against the oracle's cosines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nncift_core.influence.contract import Rows
from nncift_core.influence.delift_se import DeliftSE

ORACLES = Path(__file__).parents[1] / "data" / "oracles"


def rows(embeddings: np.ndarray | None, n: int) -> Rows:
    return Rows(np.arange(n), ("p",) * n, ("r",) * n, embeddings)


@pytest.fixture(scope="module")
def oracle() -> dict[str, np.ndarray]:
    with np.load(ORACLES / "embedding.npz", allow_pickle=False) as data:
        return dict(data)


def test_tile_and_pairs_equal_the_oracle(oracle: dict[str, np.ndarray]) -> None:
    pool, target = rows(oracle["pool_embedding"], 24), rows(oracle["target_embedding"], 12)
    done: list[int] = []
    values = DeliftSE("k").tile(pool, target, done.append)
    assert values.dtype == np.float32 and done == [288]
    np.testing.assert_allclose(values, oracle["cosine"], rtol=0, atol=1e-6)
    i, j = np.array([3, 20, 0]), np.array([0, 11, 0])
    scattered = DeliftSE("k").pairs(pool.take(i), target.take(j))
    np.testing.assert_allclose(scattered, oracle["cosine"][i, j], rtol=0, atol=1e-6)


def test_rounding_never_leaves_the_range() -> None:
    one = np.full((1, 3), np.float32(0.57735032))
    assert (one @ one.T)[0, 0] > 1
    assert DeliftSE("k").tile(rows(one, 1), rows(-one, 1))[0, 0] == -1
    assert DeliftSE("k").pairs(rows(one, 1), rows(one, 1))[0] == 1


def test_missing_embeddings_are_named() -> None:
    with pytest.raises(ValueError, match='needs "embedding"'):
        DeliftSE("k").tile(rows(None, 2), rows(None, 2))


def test_key_follows_the_encoder() -> None:
    assert DeliftSE("a").key() != DeliftSE("b").key()
    assert DeliftSE("a").key() == DeliftSE("a").key()
    assert len(DeliftSE("a").key()) == 32


def test_aggregate() -> None:
    scores = DeliftSE("k").aggregate(np.array([[0.5, 0.1]], np.float32), np.array([0, 0]))
    np.testing.assert_allclose(scores, [[0.3]], rtol=1e-6)
