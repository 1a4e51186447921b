"""What is measured of one fit."""

from __future__ import annotations

import numpy as np
import pytest

from nncift_core.estimator.contract import EMBEDDING, Features
from nncift_core.estimator.pair_features import Table
from nncift_core.estimator.registry import make
from nncift_core.studies import Fit, Material, draw, evaluate_fit, measure_fit, measured
from nncift_core.studies.measures import groups

RNG = np.random.default_rng(1)
X, Y = RNG.normal(size=(30, 4)).astype(np.float32), RNG.normal(size=(9, 4)).astype(np.float32)
EXACT = (X @ Y.T).astype(np.float32)
FEATURES = Features(
    np.arange(30),
    np.arange(100, 109),
    {EMBEDDING: X},
    {EMBEDDING: Y},
    {"embedding cosine": Table(EXACT + 0.1 * RNG.normal(size=EXACT.shape).astype(np.float32))},
)


def mask(design: str, u: float = 0.4) -> np.ndarray:
    out = np.zeros(EXACT.shape, bool)
    out[draw(design, 30, 9, u, 0)] = True
    return out


def by_group(rows: list, metric: str) -> dict:
    return {r.quadrant: r.value for r in rows if r.metric == metric}


def test_quadrants_part_the_matrix_where_labels_are_a_block() -> None:
    found = dict(groups(mask("block")))
    assert list(found) == ["Q1", "Q2", "Q3", "Q4", "unseen"]
    assert sum(found[q].astype(int) for q in ("Q1", "Q2", "Q3", "Q4")).tolist() == np.ones((30, 9)).tolist()
    assert (found["unseen"] == ~found["Q1"]).all()
    assert list(dict(groups(mask("all-targets")))) == ["Q1", "Q3", "unseen"]
    scattered = dict(groups(mask("scattered")))
    assert list(scattered) == ["seen", "unseen"] and scattered["seen"].sum() == mask("scattered").sum()
    assert list(dict(groups(np.ones((3, 2), bool)))) == ["Q1"]


def test_metrics_know_a_perfect_and_a_constant_prediction() -> None:
    perfect = measured(EXACT, EXACT, mask("block"))
    metrics = ("r2", "spearman", "spearman_per_target", "recall", "recall_per_target", "recall_by_score")
    for metric in metrics:
        assert by_group(perfect, metric)["unseen"] == pytest.approx(1), metric
    assert by_group(perfect, "mse")["Q4"] == 0
    constant = measured(EXACT, np.zeros_like(EXACT), mask("block"))
    assert by_group(constant, "spearman")["Q4"] is None
    # Of 18 rows in Q4 two are on top: a constant finds a ninth of them, in expectation.
    assert by_group(constant, "recall_by_score")["Q4"] == pytest.approx(2 / 18)
    assert by_group(constant, "recall_per_target")["Q4"] == pytest.approx(2 / 18)


def test_recall_by_score_is_of_row_means() -> None:
    predicted = EXACT - EXACT.mean(axis=1, keepdims=True)
    found = measured(EXACT, predicted, np.zeros(EXACT.shape, bool) | (np.arange(9) == 0))
    # Every row's mean is (nearly) the same in the prediction, while pairs still rank within columns.
    assert by_group(found, "spearman")["unseen"] > 0.5
    assert by_group(found, "recall_by_score")["unseen"] < 1


def test_a_fit_is_measured_on_what_it_was_not_given() -> None:
    rows = evaluate_fit(FEATURES, EXACT, draw("block", 30, 9, 0.4, 0), make("cosine"))
    assert by_group(rows, "spearman")["Q4"] > 0.9 and by_group(rows, "r2")["Q4"] > 0.9
    with pytest.raises(ValueError, match="the features are of"):
        evaluate_fit(FEATURES, EXACT[:, :4], draw("block", 30, 4, 0.4, 0), make("cosine"))


def test_a_cell_holds_measures_selection_and_sizes() -> None:
    found = measure_fit(Material(FEATURES, EXACT), Fit("cosine", "block", 0.4, 0), [0.1, 0.3])
    assert (found["predictor"], found["failed"]) == ("embedding cosine", "")
    assert list(found["selection"]) == ["0.1", "0.3"]
    assert found["selection"]["0.3"]["share_of_gain"] > 0.8
    whole = {r["metric"]: r["value"] for r in found["measures"] if r["quadrant"] is None}
    assert whole["labels"] == 12 * 4 and whole["fit_seconds"] >= 0
    assert set(whole) == {"labels", "fit_seconds", "predict_seconds", "parameters"}


@pytest.mark.parametrize(
    ("fit", "reason"),
    [
        (Fit("bm25", "block", 0.4, 0), "needs the pair feature 'bm25'"),
        (Fit("constant", "block", 0.4, 0, without="loss"), "no feature group 'loss'"),
        (Fit("mlp-paper", "block", 0.4, 0, without="embedding"), "needs the group 'embedding'"),
    ],
)
def test_what_cannot_be_fitted_is_recorded_with_its_reason(fit: Fit, reason: str) -> None:
    found = measure_fit(Material(FEATURES, EXACT), fit, [0.1])
    assert reason in found["failed"] and found["measures"] == [] and found["selection"] == {}


def test_learned_estimators_read_what_they_may_and_baselines_everything() -> None:
    material = Material(FEATURES, EXACT, readable=(EMBEDDING,))
    assert measure_fit(material, Fit("cosine", "block", 0.4, 0))["failed"] == ""
    ridge = measure_fit(material, Fit("ridge", "block", 0.4, 0))
    pure = measure_fit(Material(FEATURES.only({EMBEDDING}), EXACT), Fit("ridge", "block", 0.4, 0))
    less = [[r for r in f["measures"] if r["quadrant"]] for f in (ridge, pure)]
    assert less[0] == less[1] and ridge["failed"] == ""
