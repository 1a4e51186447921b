"""Content ids in sorted arrays, beside the dictionaries that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncift_core.ids import Places, Sorted, distinct

IDS = st.lists(st.integers(-(2**62), 2**62) | st.integers(0, 8), max_size=30)


def array(ids: list[int]) -> np.ndarray:
    return np.array(ids, np.int64)


@given(IDS)
def test_distinct_keeps_the_first_of_each(ids: list[int]) -> None:
    assert distinct(array(ids)).tolist() == list(dict.fromkeys(ids))


@given(IDS, IDS)
def test_sorted_finds_what_a_dictionary_finds(ids: list[int], wanted: list[int]) -> None:
    own = list(dict.fromkeys(ids))
    place = {c: k for k, c in enumerate(own)}
    assert Sorted(array(own)).find(array(wanted)).tolist() == [place.get(c, -1) for c in wanted]


@given(st.lists(IDS, max_size=8), IDS)
def test_places_are_the_first_in_the_order_of_the_files(files: list[list[int]], wanted: list[int]) -> None:
    places, expected = Places(), {}
    for number, ids in enumerate(files):
        places.add(f"file-{number}", array(ids))
        for position, c in enumerate(ids):
            expected.setdefault(c, (number, position))
    everything = [*wanted, *expected]
    found, at = places.find(array(everything))
    assert list(zip(found.tolist(), at.tolist(), strict=True)) == [
        expected.get(c, (-1, -1)) for c in everything
    ]
    assert places.has(array(everything)).tolist() == [c in expected for c in everything]


def test_a_copy_does_not_see_what_the_other_is_given() -> None:
    first = Places()
    first.add("a", array([1, 2]))
    second = first.copy()
    second.add("b", array([3]))
    assert first.has(array([1, 3])).tolist() == [True, False]
    assert second.has(array([1, 3])).tolist() == [True, True] and first.names == ["a"]


@pytest.mark.parametrize("files", [1, 7, 100])
def test_many_files_make_few_runs(files: int) -> None:
    places = Places()
    for number in range(files):
        places.add(str(number), np.arange(10) + 10 * number)
    assert len(places._runs) <= 2 + int(np.log2(files))
