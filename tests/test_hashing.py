"""Identities: what changes them and what must not."""

from __future__ import annotations

import numpy as np
import pytest

from nncift_core.hashing import (
    content_hash,
    content_id,
    digest,
    digest_in_parts,
    digest_of,
    example_id,
    hash_rank,
)


def test_content_hash_is_nfc_for_the_hash_only() -> None:
    assert content_hash("caf\u00e9", "x") == content_hash("cafe\u0301", "x")
    assert content_hash("a", "b") != content_hash("a", "B")


def test_content_hash_knows_where_the_prompt_ends() -> None:
    assert content_hash("ab", "c") != content_hash("a", "bc")
    assert content_hash("", "abc") != content_hash("abc", "")


def test_ids_fit_bigint_and_tell_copies_apart() -> None:
    h = content_hash("p", "r")
    ids = [example_id("d", "pool", h, 0), example_id("d", "pool", h, 1), example_id("d", "target", h, 0)]
    assert len(set(ids)) == 3
    assert all(0 <= i < 2**63 for i in [*ids, content_id(h)])


def test_hash_rank_depends_on_id_and_seed_not_on_position() -> None:
    ids = np.arange(1000, dtype=np.int64)
    ranks = hash_rank(ids, 0, "rows")
    assert np.array_equal(ranks[::-1], hash_rank(ids[::-1], 0, "rows"))
    assert not np.array_equal(ranks, hash_rank(ids, 1, "rows"))
    assert not np.array_equal(ranks, hash_rank(ids, 0, "columns"))
    assert abs((ranks < np.uint64(2**63)).mean() - 0.5) < 0.06


def test_pair_rank_is_not_symmetric() -> None:
    a, b = np.array([1, 2], np.int64), np.array([2, 1], np.int64)
    ranks = hash_rank(a, 0, "pair", b)
    assert ranks[0] != ranks[1]


@pytest.mark.parametrize("sizes", [(0, 0), (1, 3), (65_536, 65_537), (200_000, 2)])
def test_arrays_are_hashed_as_the_lists_that_they_stand_for(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    rows, columns = (rng.integers(-(1 << 62), 1 << 62, size=n) for n in sizes)
    assert digest_of("fämily", rows, columns) == digest(["fämily", rows.tolist(), columns.tolist()])


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_lists_in_parts_are_hashed_as_whole_ones(size: int) -> None:
    lists = [list(range(7)), ["ä", None, "], [", '"', "", "x", "y"], [], [[1], {"b": 2, "a": []}]]
    parts = ([whole[n : n + size] for n in range(0, len(whole), size)] for whole in lists)
    assert digest_in_parts(parts) == digest(lists)
