"""Which rows are kept: sizes, floors, ends, ties, and the odds of each draw."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare

from nncift_core.errors import UserError
from nncift_core.pruning.sampling import Kept, keep_by_score, keep_random, keep_stratified

Keep = Callable[[float, int, int], Kept]


def keepers(difficulty: np.ndarray, labels: np.ndarray) -> dict[str, Keep]:
    """Every way of keeping rows, as a function of (pruned, floor, seed)."""

    def by(end: str, sampling: str) -> Keep:
        return lambda pruned, floor, seed: keep_by_score(
            difficulty, labels, pruned=pruned, end=end, sampling=sampling, floor=floor, eps=0.1, seed=seed
        )

    return {
        "random": lambda pruned, floor, seed: keep_random(labels, pruned=pruned, floor=floor, seed=seed),
        "stratified": lambda pruned, floor, seed: keep_stratified(
            labels, pruned=pruned, floor=floor, seed=seed
        ),
        **{f"{s}-{e}": by(e, s) for s in ("cut", "softmax", "linear") for e in ("easy", "hard")},
    }


NAMES = list(keepers(np.zeros(1), np.zeros(1, np.int64)))


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float, int, int]:
    n = draw(st.integers(2, 40))
    difficulty = draw(arrays(np.float64, n, elements=st.sampled_from([-3.0, 0.0, 0.5, 2.0, 1e6])))
    labels = draw(arrays(np.int64, n, elements=st.sampled_from([0, 0, 0, 1, 1, 2, 7])))
    return difficulty, labels, draw(st.floats(0, 0.7)), draw(st.integers(0, 6)), draw(st.integers(0, 999))


@settings(deadline=None, max_examples=25)
@given(given_rows=rows())
@pytest.mark.parametrize("name", NAMES)
def test_sizes_floors_and_seeds_hold(
    name: str, given_rows: tuple[np.ndarray, np.ndarray, float, int, int]
) -> None:
    difficulty, labels, pruned, floor, seed = given_rows
    keep = keepers(difficulty, labels)[name]
    kept, free = keep(pruned, floor, seed), keep(pruned, 0, seed)
    classes, sizes = np.unique(labels, return_counts=True)
    floors = np.minimum(sizes, floor)
    size = len(labels) - round(pruned * len(labels))
    assert len(kept) == max(size, floors.sum())
    assert len(free) == size and free.floored == 0
    assert (np.diff(kept.index) > 0).all() and kept.index.min() >= 0 and kept.index.max() < len(labels)
    assert (np.array([(labels[kept.index] == k).sum() for k in classes]) >= floors).all()
    assert kept.floored == len(set(kept.index) - set(free.index))
    np.testing.assert_array_equal(keep(pruned, floor, seed).index, kept.index)


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_keeps_other_rows_where_chance_decides(name: str) -> None:
    keep = keepers(np.repeat([0.0, 1.0, 2.0, 3.0], 50), np.tile([0, 1], 100))[name]
    one, other = keep(0.6, 1, 0).index, keep(0.6, 1, 1).index
    assert one.tolist() != other.tolist()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "stratified"])
def test_without_floors_more_pruning_keeps_a_subset(name: str) -> None:
    keep = keepers(np.random.default_rng(0).normal(size=60).round(1), np.zeros(60, np.int64))[name]
    assert set(keep(0.7, 0, 3).index) < set(keep(0.3, 0, 3).index)


def test_a_cut_drops_the_end_that_is_named() -> None:
    keep = keepers(np.array([5.0, 1.0, 4.0, 2.0, 3.0]), np.zeros(5, np.int64))
    assert keep["cut-easy"](0.4, 0, 0).index.tolist() == [0, 2, 4]
    assert keep["cut-hard"](0.4, 0, 0).index.tolist() == [1, 3, 4]


def test_ties_at_the_cut_are_equally_likely() -> None:
    keep = keepers(np.array([9.0, 1.0, 1.0, 1.0, 1.0]), np.zeros(5, np.int64))["cut-easy"]
    seen = np.zeros(5)
    for seed in range(1000):
        seen[keep(0.4, 0, seed).index] += 1
    assert seen[0] == 1000
    assert chisquare(seen[1:]).pvalue > 1e-3


def test_a_floor_pushes_out_the_rows_that_are_wanted_least() -> None:
    difficulty = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.2, 0.1, 0.0])
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 2])
    keep = keepers(difficulty, labels)["cut-easy"]
    assert keep(0.5, 0, 0).index.tolist() == [0, 1, 2, 3]
    kept = keep(0.5, 1, 0)
    assert kept.index.tolist() == [0, 1, 5, 7] and kept.floored == 2
    beyond = keep(0.5, 2, 0)
    assert beyond.index.tolist() == [0, 1, 5, 6, 7] and beyond.floored == 3


def test_stratified_keeps_the_same_share_of_every_class_by_largest_remainder() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 30, 15, 6])
    keep = keepers(np.zeros(101), labels)["stratified"]
    # 61 of 101: 30.2, 18.1, 9.06 and 3.6 rows.
    assert np.bincount(labels[keep(0.4, 0, 0).index]).tolist() == [30, 18, 9, 4]
    raised = keep(0.4, 6, 0)
    # 55 rows for 95: 28.9, 17.4 and 8.7.
    assert np.bincount(labels[raised.index]).tolist() == [29, 17, 9, 6]
    assert raised.floored == 2


def test_equal_remainders_of_stratified_classes_are_rounded_at_random() -> None:
    labels = np.repeat([0, 1, 2, 3], 3)
    up = np.zeros(4)
    for seed in range(800):
        kept = keep_stratified(labels, pruned=0.5, floor=0, seed=seed)
        counts = np.bincount(labels[kept.index], minlength=4)
        assert sorted(counts) == [1, 1, 2, 2]
        up += counts == 2
    assert chisquare(up).pvalue > 1e-3


DIFFICULTY = np.array([-1.0, 0.0, 0.2, 1.5, 3.0])


def weights_of(sampling: str, end: str) -> np.ndarray:
    """The weights that the docstring promises, written out."""
    v = DIFFICULTY if end == "easy" else -DIFFICULTY
    if sampling == "softmax":
        w = np.exp((v - v.mean()) / v.std())
    else:
        w = 0.1 + 0.9 * (v - v.min()) / (v.max() - v.min())
    return w / w.sum()


@pytest.mark.parametrize("end", ["easy", "hard"])
@pytest.mark.parametrize("sampling", ["softmax", "linear"])
def test_the_first_draw_follows_the_weights_and_the_next_ones_those_that_are_left(
    sampling: str, end: str
) -> None:
    p = weights_of(sampling, end)
    keep = keepers(DIFFICULTY, np.zeros(5, np.int64))[f"{sampling}-{end}"]
    draws = 1000
    first = np.zeros(5)
    pairs: dict[tuple[int, ...], int] = {}
    for seed in range(draws):
        first[keep(0.8, 0, seed).index] += 1
        pair = tuple(keep(0.6, 0, seed).index.tolist())
        pairs[pair] = pairs.get(pair, 0) + 1
    assert chisquare(first, draws * p).pvalue > 1e-3
    expected: dict[tuple[int, ...], float] = {}
    for a, b in permutations(range(5), 2):
        pair = (min(a, b), max(a, b))
        expected[pair] = expected.get(pair, 0) + p[a] * p[b] / (1 - p[a])
    seen = [pairs.get(pair, 0) for pair in expected]
    assert chisquare(seen, draws * np.array(list(expected.values()))).pvalue > 1e-3


def test_wrong_wishes_are_refused() -> None:
    labels = np.array([0, 1, 0, 1])
    keep = keepers(np.arange(4.0), labels)
    with pytest.raises(UserError, match=r"study\.prune.*leaves none"):
        keep["random"](0.9, 0, 0)
    with pytest.raises(ValueError, match="cannot be pruned"):
        keep["stratified"](1.0, 0, 0)
    with pytest.raises(ValueError, match="finite"):
        keepers(np.array([1.0, np.nan, 0, 0]), labels)["cut-easy"](0.5, 0, 0)
    with pytest.raises(ValueError, match="finite"):
        keepers(np.arange(3.0), labels)["cut-easy"](0.5, 0, 0)
    wish = {"pruned": 0.5, "end": "easy", "sampling": "linear", "floor": 0, "eps": 0.1, "seed": 0}
    for name, value in [("end", "left"), ("sampling", "odd"), ("eps", 0.0)]:
        with pytest.raises(ValueError, match=str(value)):
            keep_by_score(np.arange(4.0), labels, **{**wish, name: value})  # type: ignore[arg-type]
