"""DELIFT (SE) against the oracle's cosines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nncift_core.config import EncoderConfig, parse_config
from nncift_core.encoders import encoder_key
from nncift_core.hashing import digest
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


def test_key_follows_the_encoders_of_both_sides() -> None:
    keys = [DeliftSE("a").key(), DeliftSE("b").key(), DeliftSE("a", "b").key(), DeliftSE("b", "a").key()]
    assert len(set(keys)) == 4
    assert DeliftSE("a").key() == DeliftSE("a", "a").key()
    assert len(DeliftSE("a").key()) == 32


def test_equal_prefixes_keep_one_key_and_different_ones_enter_it() -> None:
    def key(**encoder: str) -> str:
        job = {"pool": {"source": "x"}, "influence": {"function": "delift-se"}, "encoder": encoder}
        config = parse_config(job)
        assert DeliftSE.from_config(config, "cpu").key() == DeliftSE.key_of(config)
        return DeliftSE.key_of(config)

    # What the key was before there were prefixes.
    old = digest({"name": "delift-se", "version": 1, "encoder": encoder_key(EncoderConfig())})
    assert key() == key(pool_prefix="", target_prefix="") == old
    same = key(pool_prefix="text: ", target_prefix="text: ")
    prefixed = encoder_key(EncoderConfig(pool_prefix="text: "))
    assert same == digest({"name": "delift-se", "version": 1, "encoder": prefixed})
    keys = {old, same, key(pool_prefix="text: "), key(target_prefix="text: ")}
    assert len(keys | {key(pool_prefix="passage: ", target_prefix="query: ")}) == 5


def test_aggregate() -> None:
    scores = DeliftSE("k").aggregate(np.array([[0.5, 0.1]], np.float32), np.array([0, 0]))
    np.testing.assert_allclose(scores, [[0.3]], rtol=1e-6)
