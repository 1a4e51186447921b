"""Length: the measure of the rival subset "longest", and no setting changes it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nncift_core.config import parse_config
from nncift_core.evaluation.subsets import longest_rows
from nncift_core.influence.contract import Rows
from nncift_core.influence.length import Length
from nncift_core.selection.top_k import top_k

RESPONSES = ("a" * 9, "", "naïve 😀 שלום", "longer than the others, by far", "ab\n")


def rows() -> Rows:
    return Rows(np.arange(5), ("prompt that does not count",) * 5, RESPONSES)


def test_values_are_the_characters_of_responses() -> None:
    done: list[int] = []
    values = Length().values(rows(), done.append)
    assert values.dtype == np.float32 and values.tolist() == [9, 0, 12, 30, 3] and done == [5]
    assert Length().values(rows().take(np.array([], np.int64))).shape == (0,)


def test_top_k_of_length_is_the_longest_rival() -> None:
    # The store counts what a file holds with this function.
    stored = np.array(pc.utf8_length(pa.array(RESPONSES)).to_pylist())
    rival = longest_rows(stored, 3, np.arange(5), seed=0)
    assert top_k(Length().values(rows()), 3).order.tolist() == rival.tolist() == [3, 2, 0]


def test_key_and_kind() -> None:
    config = parse_config({"pool": {"source": "x"}, "seed": 3, "influence": {"function": "length"}})
    assert Length.from_config(config, "cpu").key() == Length.key_of(config) == Length().key()
    assert Length().kind == "pointwise" and Length().needs == frozenset()
    with pytest.raises(TypeError, match="Length is pointwise"):
        Length().tile(rows(), rows())
    np.testing.assert_array_equal(
        Length().aggregate(np.array([[2], [7]], np.float32), np.array([0])), np.array([[2], [7]], np.float32)
    )
