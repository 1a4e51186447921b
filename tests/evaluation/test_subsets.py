"""Subsets that a selected one is compared with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from nncift_core.evaluation import longest_rows, random_rows, random_tokens

Int64 = npt.NDArray[np.int64]
IDS = np.random.default_rng(5).permutation(10**6)[:2000].astype(np.int64)


def test_random_rows_are_distinct_and_as_many_as_asked() -> None:
    for count in (0, 1, 700, len(IDS)):
        drawn = random_rows(IDS, count, 0)
        assert len(drawn) == len(set(drawn.tolist())) == count
        assert set(drawn.tolist()) <= set(range(len(IDS)))


def test_random_rows_are_the_first_of_one_order() -> None:
    np.testing.assert_array_equal(random_rows(IDS, 2000, 3)[:50], random_rows(IDS, 50, 3))


def test_random_rows_differ_by_seed_and_are_uniform() -> None:
    draws = [random_rows(IDS, 200, seed) for seed in range(200)]
    assert len({tuple(sorted(d.tolist())) for d in draws}) == 200
    # Each row is drawn 20 times of 200 on average, standard deviation 4.2: 5 of them either way.
    counts = np.bincount(np.concatenate(draws), minlength=len(IDS))
    assert counts.min() >= 1 and counts.max() <= 42


def test_random_rows_do_not_depend_on_positions() -> None:
    shuffled = np.random.default_rng(0).permutation(len(IDS))
    np.testing.assert_array_equal(
        IDS[random_rows(IDS, 100, 1)], IDS[shuffled][random_rows(IDS[shuffled], 100, 1)]
    )


def test_appended_rows_only_displace() -> None:
    before, after = random_rows(IDS[:1000], 100, 1).tolist(), random_rows(IDS, 100, 1).tolist()
    stayed = [i for i in after if i < 1000]
    assert 20 < len(stayed) < 80
    assert stayed == before[: len(stayed)]


@pytest.mark.parametrize("count", [-1, 2001])
def test_impossible_counts_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="of 2000 rows"):
        random_rows(IDS, count, 0)
    with pytest.raises(ValueError, match="of 2000 rows"):
        longest_rows(np.ones(2000, np.int64), count, IDS, 0)


def token_counts() -> Int64:
    return np.random.default_rng(1).integers(5, 400, len(IDS))


@pytest.mark.parametrize("budget", [1, 300, 12_345, 60_000, 250_000])
def test_random_tokens_come_nearest_to_the_budget(budget: int) -> None:
    tokens = token_counts()
    for seed in range(10):
        drawn = random_tokens(IDS, lambda k: tokens[k], budget, seed)
        everything = random_tokens(IDS, lambda k: tokens[k], int(tokens.sum()), seed)
        np.testing.assert_array_equal(drawn, everything[: len(drawn)])
        misses = np.abs(np.cumsum(tokens[everything]) - budget)
        assert misses[len(drawn) - 1] == misses.min()
        assert len(set(drawn.tolist())) == len(drawn)


def test_random_tokens_over_or_under_by_hand() -> None:
    tokens = np.full(10, 10, np.int64)
    sizes = [len(random_tokens(IDS[:10], lambda k: tokens[k], b, 0)) for b in (3, 10, 14, 15, 16, 99, 1000)]
    assert sizes == [1, 1, 1, 1, 2, 10, 10]


def test_random_tokens_asks_only_as_far_as_needed() -> None:
    tokens, asked = token_counts(), []

    def tokens_of(rows: Int64) -> Int64:
        asked.extend(rows.tolist())
        return tokens[rows]

    drawn = random_tokens(IDS, tokens_of, 60_000, 0)
    assert len(drawn) > 256
    assert len(asked) < len(drawn) + 256 and len(asked) == len(set(asked))


def test_random_tokens_draws_otherwise_than_random_rows_and_by_seed() -> None:
    ones = [random_tokens(IDS, lambda k: np.ones(len(k), np.int64), 100, seed) for seed in (0, 1)]
    assert len(ones[0]) == 100
    assert set(ones[0].tolist()) != set(ones[1].tolist())
    assert set(ones[0].tolist()) != set(random_rows(IDS, 100, 0).tolist())


@pytest.mark.parametrize(("rows", "budget"), [(0, 10), (10, 0)])
def test_random_tokens_without_rows_or_budget_are_refused(rows: int, budget: int) -> None:
    with pytest.raises(ValueError, match="holds no row"):
        random_tokens(IDS[:rows], lambda k: k, budget, 0)


def test_longest_rows_come_longest_first() -> None:
    lengths = np.array([3, 9, 1, 7, 8], np.int64)
    assert longest_rows(lengths, 3, IDS[:5], 0).tolist() == [1, 4, 3]


def test_ties_of_length_are_broken_by_rank_not_position() -> None:
    lengths = np.array([5] * 50 + [9] + [5] * 49, np.int64)
    taken = longest_rows(lengths, 20, IDS[:100], 0)
    assert taken[0] == 50 and len(set(taken.tolist())) == 20
    turned = longest_rows(lengths[::-1], 20, IDS[:100][::-1], 0)
    np.testing.assert_array_equal(IDS[:100][taken], IDS[:100][::-1][turned])
    assert taken.tolist() != longest_rows(lengths, 20, IDS[:100], 1).tolist()
    assert taken.max() > 60


def test_longest_rows_need_a_length_for_every_row() -> None:
    with pytest.raises(ValueError, match="4 lengths but 5 ids"):
        longest_rows(np.ones(4, np.int64), 2, IDS[:5], 0)
