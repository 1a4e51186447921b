"""What more labels and each feature group buy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from estimator.made_estimators import Cosine, Linear, block, made, scattered

from nncift_core.estimator.choice import group_gains, learning_curve

ROW, COLUMN = block(np.arange(40), np.arange(16))


def given(labels=(ROW, COLUMN), seed=0):
    features, matrix = made(seed)
    a, b = scattered(matrix.shape, 200, 1, but=labels)
    return features, *labels, matrix[labels], (a, b, matrix[a, b])


def counted(sizes):
    class Counted(Linear):
        def fit(self, features, i, j, values, *, seed):
            sizes.append((len(np.unique(i)), len(np.unique(j)), len(i)))
            return super().fit(features, i, j, values, seed=seed)

    return Counted


def curve(make, labels=(ROW, COLUMN), **changes):
    features, i, j, values, audit = given(labels)
    return learning_curve(features, i, j, values, make, audit, seed=0, **changes)


def test_more_labels_buy_rank():
    rows = curve(Linear)
    assert [(r["share"], r["labels"], r["repeats"]) for r in rows] == [
        (0.25, 160, 3),
        (0.5, 308, 3),
        (1.0, 640, 1),
        (2.0, 1280, 0),
    ]
    assert [r["extrapolated"] for r in rows] == [False] * 3 + [True]
    ranks = [r["spearman"] for r in rows]
    assert ranks == sorted(ranks) and ranks[2] - ranks[0] > 0.1 and ranks[3] <= 1
    assert rows[0]["spearman_sd"] > 0 and rows[2]["spearman_sd"] is None
    # The line a - b / sqrt(n) through the three measured points.
    n = np.array([160.0, 308, 640])
    slope, intercept = np.polyfit(n**-0.5, ranks[:3], 1)
    assert ranks[3] == pytest.approx(intercept + slope * 1280**-0.5)
    assert json.loads(json.dumps(rows)) == rows == curve(Linear)


def test_a_part_of_a_block_is_a_block_and_of_scattered_labels_are_pairs():
    sizes = []
    curve(counted(sizes), shares=(0.25, 1.0), repeats=2)
    assert sizes == [(20, 8, 160), (20, 8, 160), (40, 16, 640)]
    sizes.clear()
    curve(counted(sizes), labels=scattered((200, 40), 900, 5), shares=(0.5,), repeats=1)
    assert sizes[0][0] > 100 and sizes[0][2] == 450


def test_of_a_single_column_only_rows_are_left_out():
    sizes = []
    curve(counted(sizes), labels=block(np.arange(40), np.arange(1)), shares=(0.5,), repeats=1)
    assert sizes == [(20, 1, 20)]


def test_a_fit_that_fails_leaves_a_gap():
    class NeedsMany(Linear):
        def fit(self, features, i, j, values, *, seed):
            if len(i) < 200:
                raise ValueError("too few labels")
            return super().fit(features, i, j, values, seed=seed)

    rows = curve(NeedsMany)
    assert (rows[0]["spearman"], rows[0]["failed"]) == (None, "too few labels")
    assert rows[1]["failed"] is None and rows[3]["spearman"] is not None
    assert curve(NeedsMany, shares=(0.25, 1.0))[-1]["spearman"] is None


def test_what_each_group_buys():
    class Either(Linear):
        """Lengths too, and without embeddings nothing but lengths."""

        def _inputs(self, features, i, j):
            parts = [features.rows["lengths"][i]] if "lengths" in features.rows else []
            if "embedding" in features.rows:
                parts.append(super()._inputs(features, i, j))
            return np.concatenate(parts, axis=1).astype(np.float64)

    features, i, j, values, audit = given()
    rows = group_gains(features, i, j, values, Either, audit, seed=0)
    embedding, lengths = rows
    assert [r["group"] for r in rows] == ["embedding", "lengths"]
    assert embedding["spearman"] == lengths["spearman"] > 0.5
    assert embedding["bought"] == pytest.approx(embedding["spearman"] - embedding["spearman_without"])
    assert embedding["bought"] > 5 * embedding["standard_error"]
    assert abs(lengths["bought"]) < 0.05 and lengths["standard_error"] < 0.05
    assert json.loads(json.dumps(rows)) == rows


def test_a_group_that_cannot_be_spared():
    features, i, j, values, audit = given()
    rows = group_gains(features, i, j, values, Linear, audit, seed=0)
    assert rows[0]["failed"] == "needs the group 'embedding'" and rows[0]["bought"] is None
    # The cosine goes with the embeddings it is made of.
    with pytest.raises(KeyError):
        group_gains(features, i, j, values, Cosine, audit, seed=0)
