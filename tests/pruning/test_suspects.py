"""Suspects: their order, and a file that no spreadsheet runs."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from nncift_core.pruning.suspects import CSV_COLUMNS, rank_suspects, suspects_csv

GIVEN = np.array([0, 0, 1, 1])
PREDICTED = np.array([0, 1, 1, 0])
PROBABILITY = np.array([0.01, 0.4, 0.9, 0.2])
HARD = {"el2n": np.array([0.9, 0.7, 0.1, 0.8]), "aum": np.array([0.5, 0.7, 0.1, 0.8])}


def test_rows_that_are_predicted_otherwise_come_first_least_probable_label_first():
    rows = rank_suspects(HARD, GIVEN, PREDICTED, PROBABILITY, 10)
    assert [r["index"] for r in rows] == [3, 1, 0, 2]
    assert [r["rank"] for r in rows] == [1, 2, 3, 4]
    assert rows[0] == {
        "rank": 1,
        "index": 3,
        "given": 1,
        "predicted": 0,
        "probability": 0.2,
        "consensus": (3 / 4 + 1) / 2,
        "agreement": 0.5,
    }
    assert rows[2]["agreement"] == 0.5 and rows[3]["agreement"] == 0


def test_equal_probabilities_are_ordered_by_consensus_then_by_place():
    rows = rank_suspects(
        {"el2n": np.array([0.1, 0.5, 0.5, 0.9])}, GIVEN, 1 - GIVEN, np.full(4, 0.5, np.float32), 3
    )
    assert [r["index"] for r in rows] == [3, 1, 2]


def test_ties_at_the_edge_of_the_hardest_share_its_room():
    hard = {"forgetting": np.r_[np.ones(10), np.zeros(90)]}
    given = np.zeros(100, np.int64)
    rows = rank_suspects(hard, given, given, np.linspace(0, 1, 100), 100)
    assert [r["agreement"] for r in rows[:11]] == [0.5] * 10 + [0.0]


def test_suspects_find_planted_labels_far_beyond_chance():
    rng = np.random.default_rng(0)
    planted = rng.permutation(1000) < 100
    margin = rng.normal(2, 1, 1000) - 4 * planted
    given = np.zeros(1000, np.int64)
    rows = rank_suspects({"aum": -margin}, given, (margin < 0) * 1, 1 / (1 + np.exp(-margin)), 100)
    assert np.mean([planted[r["index"]] for r in rows]) > 0.8


def test_wrong_arrays_are_refused():
    with pytest.raises(ValueError, match="aum is"):
        rank_suspects({"aum": np.zeros(3)}, GIVEN, PREDICTED, PROBABILITY, 1)
    with pytest.raises(ValueError, match="no numbers"):
        rank_suspects({"aum": np.array([0, np.nan, 0, 0])}, GIVEN, PREDICTED, PROBABILITY, 1)
    with pytest.raises(ValueError, match="need a score"):
        rank_suspects({}, GIVEN, PREDICTED, PROBABILITY, 1)
    with pytest.raises(ValueError, match="need a score"):
        rank_suspects(HARD, GIVEN, PREDICTED, PROBABILITY, -1)


def test_the_file_has_a_place_for_the_new_label_and_no_formula():
    texts = ['=HYPERLINK("x")', "plain, with comma", "-1", "two\nlines"]
    text = suspects_csv(
        rank_suspects(HARD, GIVEN, PREDICTED, PROBABILITY, 4),
        ids=["@a", 11, "c", "+d"],
        texts=texts,
        text_pairs=["\tx", "", "b", "a = b"],
        classes=["=no", "yes"],
        source_rows=[1, 2, 3, -4],
    )
    rows = list(csv.reader(io.StringIO(text)))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert rows[1] == ["1", "'+d", "two\nlines", "a = b", "yes", "'=no", "", "0.2", "0.8750", "0.500", "-4"]
    assert rows[2][1:3] == ["11", "plain, with comma"]
    assert rows[3][1:4] == ["'@a", '\'=HYPERLINK("x")', "'\tx"]
    assert len(rows) == 5


def test_single_texts_leave_the_pair_empty():
    text = suspects_csv(
        rank_suspects(HARD, GIVEN, PREDICTED, PROBABILITY, 1),
        ids="abcd",
        texts="wxyz",
        text_pairs=None,
        classes=["no", "yes"],
        source_rows=range(4),
    )
    assert text.splitlines()[1].startswith("1,d,z,,yes,no,,")
