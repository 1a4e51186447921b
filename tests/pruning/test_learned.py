"""Learned scores: what is learned, what is refused, and that no value of a held-out row is seen."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from nncift_core.pruning import class_sums, learned
from nncift_core.pruning.learned import label_features, learn_score

D, CLASSES = 12, 8
RNG = np.random.default_rng(0)
MEANS = RNG.normal(size=(CLASSES, D))


def made(n, seed):
    """Rows around class means, a fifth under a wrong label, and a score that is high for these."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, CLASSES, n)
    x = (MEANS[true] + 0.5 * rng.normal(size=(n, D))).astype(np.float32)
    wrong = rng.random(n) < 0.2
    labels = np.where(wrong, (true + 1) % CLASSES, true)
    return x, labels, wrong + 0.1 * rng.normal(size=n), wrong


@cache
def plain():
    """The call that several tests look at."""
    return learn()


def learn(n=400, **changes):
    x, labels, values, _ = made(n, 0)
    x_new, labels_new, _, _ = made(100, 1)
    given = {"x": x, "labels": labels, "values": values, "x_new": x_new, "labels_new": labels_new}
    return learn_score(**{**given, "seed": 0, "candidates": ("ridge",), "name": "el2n", **changes})


def test_new_rows_get_the_score_of_their_label():
    got, (_, _, values, wrong) = plain(), made(100, 1)
    assert got.predicted.shape == (100,) and got.held_out.shape == (400,)
    assert np.corrcoef(got.predicted, values)[0, 1] > 0.8
    assert got.predicted[wrong].min() > np.median(got.predicted)
    assert got.verdict.level == "trusted" and got.text.startswith("ridge fitted on 400 of 400 rows")


def test_quality_stands_beside_cheap_baselines_on_rows_that_did_not_choose():
    got = learn(lengths=np.arange(400))
    assert [r["predictor"] for r in got.quality] == ["ridge", "constant", "class mean", "length"]
    for r in got.quality:
        assert (r["function"], r["role"], r["quadrant"]) == ("el2n", "audit", None)
        assert r["n_pairs"] == 400 - 133
    assert got.quality[0]["verdict"].startswith("trusted: ")
    assert got.quality[0]["r2"] > 0.5 > max(r["r2"] for r in got.quality[1:])


def test_values_that_say_nothing_are_refused():
    got = learn(values=np.random.default_rng(5).normal(size=400))
    assert got.verdict.level == "refused"
    assert learn(values=np.ones(400)).verdict.level == "refused"


def test_a_held_out_prediction_does_not_see_its_own_value():
    _, _, values, _ = made(400, 0)
    changed = values.copy()
    changed[7] = 1e3
    before, after = plain().held_out, learn(values=changed).held_out
    assert abs(after[7] - before[7]) < 100 < np.abs(after - before).max() * 100


def test_the_best_candidate_is_used_and_equal_calls_give_equal_bits():
    got = learn(150, candidates=("knn", "ridge"))
    assert set(got.choice) == {"knn", "ridge"}
    assert got.estimator == max(got.choice, key=got.choice.get)
    assert (learn(150, candidates=("knn", "ridge")).predicted == got.predicted).all()


def test_large_sets_measure_a_fifth_and_fit_a_part(monkeypatch):
    monkeypatch.setattr(learned, "CROSS_VALIDATED", 300)
    monkeypatch.setattr(learned, "MOST_FITTED", 150)
    got = learn()
    measured = np.isfinite(got.held_out).sum()
    assert 30 < measured <= 80 and got.quality[0]["n_pairs"] == measured
    assert (got.fitted, got.of) == (150, 400) and "ridge fitted on 150 of 400 rows" in got.text


def test_class_means_leave_the_row_itself_out():
    x = np.array([[1, 0], [0, 1], [0, 1], [1, 0]], np.float32)
    got = label_features(x, np.array([0, 0, 1, 2]), x, np.array([0, 0, 1, 2]), True)
    assert got[0, 0] == 0 and got[0, 1] == 1
    assert got[2].tolist() == [0, pytest.approx(2**-0.5), pytest.approx(-(2**-0.5)), 0]
    assert got[0, 3] == pytest.approx(np.log(2))


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="class 99"):
        learn(labels_new=np.full(100, 99))
    with pytest.raises(ValueError, match="1 of 400 values are not finite"):
        learn(values=np.r_[np.nan, np.ones(399)])
    with pytest.raises(ValueError, match="10 rows"):
        learn(values=np.ones(399))
    with pytest.raises(ValueError, match="new rows"):
        learn(x_new=np.ones((100, D + 1), np.float32))


@pytest.mark.parametrize("own", [True, False])
def test_features_of_blocks_of_rows_are_those_of_all_rows_at_once(monkeypatch, own):
    x, labels, _, _ = made(300, 0)
    x_of, labels_of = (x, labels) if own else made(170, 1)[:2]
    whole = label_features(x, labels, x_of, labels_of, own)
    sizes = []
    unit = learned._unit
    monkeypatch.setattr(learned, "_unit", lambda a: sizes.append(len(a)) or unit(a))
    monkeypatch.setattr(class_sums, "_NUMBERS", 7 * D)
    got = label_features(x, labels, x_of, labels_of, own)
    assert np.abs(got - whole).max() < 1e-12
    # The class means once, then a block and its rows' own means.
    assert sizes[0] == CLASSES and max(sizes[1:]) == 7 and sum(sizes[1:]) == 2 * len(x_of)


def test_sums_of_classes_do_not_depend_on_blocks(monkeypatch):
    x, labels, _, _ = made(300, 0)
    plain = np.zeros((CLASSES + 1, D))
    for row, label in zip(x.astype(np.float64), labels, strict=True):
        plain[label] += row
    for numbers in (1, 7 * D, 10**6):
        monkeypatch.setattr(class_sums, "_NUMBERS", numbers)
        assert np.array_equal(class_sums.class_sums(x, labels, CLASSES + 1), plain)
