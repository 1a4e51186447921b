"""Cheap predictors against hand-computed numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from nncift_core.bm25 import Okapi
from nncift_core.estimator import (
    Calibrated,
    ConstantMean,
    EmbeddingCosine,
    LexicalMatch,
    ShrunkMeans,
    default_baselines,
    response_length,
)

ROW, COLUMN = np.array([3, 3, 9, 9]), np.array([1, 2, 1, 2])
Z = np.array([1.0, 2.0, 3.0, 6.0])


@dataclass(frozen=True)
class Side:
    prompts: tuple[str, ...]
    responses: tuple[str, ...]


ROWS = Side(tuple(f"word{k} common" for k in range(10)), tuple("x " * k for k in range(10)))
COLUMNS = Side(("word3", "word9 common", "unknown"), ("", "x", "yes"))


def test_constant():
    model = ConstantMean().fit(ROW, COLUMN, Z)
    assert model.predict_pairs(np.array([7, 8]), np.array([1, 1])).tolist() == [3.0, 3.0]


def test_shrunk_means_by_hand():
    # Balanced 2 x 2 block, mean 3: row means 1.5, 4.5 and column means 2, 4, each times 2 / (2 + 2).
    model = ShrunkMeans(shrinkage=2.0).fit(ROW, COLUMN, Z)
    got = model.predict_pairs(np.array([3, 9, 9, 5, 3, 0]), np.array([1, 2, 0, 2, 99, 0]))
    np.testing.assert_allclose(got, [3 - 0.75 - 0.5, 3 + 0.75 + 0.5, 3.75, 3.5, 2.25, 3.0], atol=1e-8)


def test_shrunk_means_minimise_the_stated_objective():
    rng = np.random.default_rng(0)
    i, j, z = rng.integers(0, 6, 40), rng.integers(0, 4, 40), rng.normal(size=40)
    model = ShrunkMeans(shrinkage=1.5).fit(i, j, z)
    X = np.concatenate([np.eye(6)[i], np.eye(4)[j]], axis=1)
    exact = np.linalg.solve(X.T @ X + 1.5 * np.eye(10), X.T @ (z - z.mean()))
    np.testing.assert_allclose(np.r_[model.row_effects, model.column_effects], exact, atol=1e-7)
    with pytest.raises(ValueError, match="shrinkage must be positive, got 0"):
        ShrunkMeans(0)


def test_cosine_is_calibrated_on_the_labels():
    rows = np.array([[2, 0], [0, 1], [1, 1], [0, 0]], dtype=np.float32)
    columns = np.array([[1, 0], [3, 3]], dtype=np.float32)
    i, j = np.array([0, 1, 2, 0]), np.array([0, 0, 1, 1])
    cosine = np.array([1.0, 0.0, 1.0, 2**-0.5])
    model = EmbeddingCosine(rows, columns)
    np.testing.assert_allclose(model.cosine(i, j), cosine, atol=1e-12)
    assert model.cosine(np.array([3]), np.array([1])).tolist() == [0.0]
    model.fit(i, j, 0.5 - 2 * cosine)
    assert model.slope == pytest.approx(-2) and model.intercept == pytest.approx(0.5)
    np.testing.assert_allclose(model.predict_pairs(i, j), 0.5 - 2 * cosine, atol=1e-12)
    flat = EmbeddingCosine(rows, columns).fit(i[:1], j[:1], np.array([4.0]))
    assert flat.predict_pairs(i, j).tolist() == [4.0] * 4


def test_calibrated_takes_any_score_of_the_pair():
    model = Calibrated("product", lambda i, j: (i * j).astype(np.float32))
    model.fit(ROW, COLUMN, 1.5 - 0.5 * ROW * COLUMN)
    assert model.name == "product"
    assert model.slope == pytest.approx(-0.5) and model.intercept == pytest.approx(1.5)
    predicted = model.predict_pairs(np.array([2, 0]), np.array([5, 5]))
    assert predicted.dtype == np.float64
    np.testing.assert_allclose(predicted, [-3.5, 1.5], atol=1e-6)


def test_bm25_uses_the_words_of_the_given_rows():
    i, j = np.array([3, 9, 9, 0, 5]), np.array([0, 1, 0, 2, 1])
    documents = [f"{p}\n{r}" for p, r in zip(ROWS.prompts, ROWS.responses, strict=True)]
    queries = [f"{p}\n{r}" for p, r in zip(COLUMNS.prompts, COLUMNS.responses, strict=True)]
    score = Okapi.fit(documents).scores(documents, queries)[i, j]
    assert score[0] > 0 and score[2] == score[3] == 0
    model = LexicalMatch(ROWS, COLUMNS).fit(i, j, 2.0 + 3.0 * score)
    assert model.name == "bm25" and model.slope == pytest.approx(3)
    np.testing.assert_allclose(model.predict_pairs(i, j), 2.0 + 3.0 * score, atol=1e-5)


def test_length_is_that_of_the_rows_response():
    model = response_length(ROWS).fit(ROW, COLUMN, np.array([6.0, 6.0, 18.0, 18.0]))
    assert model.name == "length"
    np.testing.assert_allclose(model.predict_pairs(np.array([0, 4]), np.array([0, 99])), [0, 8], atol=1e-9)


def test_which_baselines_stand_in_a_table():
    e, f = np.ones((10, 2), np.float32), np.ones((3, 2), np.float32)

    def names(*given):
        return [m.name for m in default_baselines(*given)]

    three = ["constant", "row + column means", "embedding cosine"]
    assert names(e, f) == three
    assert names(e, f, ROWS, COLUMNS) == [*three, "bm25", "length"]
    assert names(e, f, ROWS) == [*three, "length"]
    assert names(e, None, ROWS) == names(e, np.empty((1, 0), np.float32), ROWS) == ["constant", "length"]
    assert names(None, None) == ["constant"]


@pytest.mark.parametrize("pointwise", [False, True])
def test_one_interface_and_one_check(pointwise):
    columns = np.ones((3, 0 if pointwise else 2), np.float32)
    models = default_baselines(np.ones((10, 2), np.float32), columns, ROWS, COLUMNS)
    assert len(models) == (2 if pointwise else 5)
    for model in models:
        assert model.fit(ROW, COLUMN, Z) is model
        assert model.predict_pairs(ROW, COLUMN).shape == (4,)
        with pytest.raises(ValueError, match="1 of 4 label values are not finite"):
            model.fit(ROW, COLUMN, np.array([1, np.nan, 2, 3]))
        with pytest.raises(ValueError, match="k > 0"):
            model.fit(ROW[:0], COLUMN[:0], Z[:0])
