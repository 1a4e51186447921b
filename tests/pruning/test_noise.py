"""Planted label noise, and how its discovery is measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare

from nncift_core.errors import UserError
from nncift_core.pruning.noise import detection, nearest_classes, plant

LABELS = np.random.default_rng(1).integers(0, 5, 400)
NEAREST = np.array([3, 2, 1, 4, 0])


def noisy(kind: str, rate: float, seed: int = 0, labels: np.ndarray = LABELS) -> np.ndarray:
    return plant(labels, 5, kind, rate, seed, NEAREST)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["uniform", "confusable"])
def test_exactly_the_share_asked_for_gets_wrong_and_nests_in_the_rate(kind: str) -> None:
    low, high = noisy(kind, 0.1), noisy(kind, 0.3)
    assert (low != LABELS).sum() == 40 and (high != LABELS).sum() == 120
    wrong = low != LABELS
    np.testing.assert_array_equal(high[wrong], low[wrong])
    assert low.min() >= 0 and low.max() < 5


def test_the_same_rows_are_hit_by_every_kind_and_others_by_another_seed() -> None:
    uniform, confusable = noisy("uniform", 0.2) != LABELS, noisy("confusable", 0.2) != LABELS
    np.testing.assert_array_equal(uniform, confusable)
    assert not (noisy("shuffle", 0.2) != LABELS)[~uniform].any()
    assert (uniform != (noisy("uniform", 0.2, seed=1) != LABELS)).any()
    np.testing.assert_array_equal(noisy("shuffle", 0.2), noisy("shuffle", 0.2))


def test_shuffling_keeps_the_classes_sizes_and_leaves_a_third_of_three_classes_right() -> None:
    labels = np.repeat([0, 1, 2], 2000)
    out = plant(labels, 3, "shuffle", 0.3, 0)
    np.testing.assert_array_equal(np.bincount(out), np.bincount(labels))
    # methods.md 2: shuffling 30 % leaves 20.0 % wrong.
    assert (out != labels).mean() == pytest.approx(0.2, abs=0.01)


def test_uniform_noise_takes_every_other_class_alike() -> None:
    labels = np.full(4000, 2)
    counts = np.bincount(noisy("uniform", 1.0, labels=labels), minlength=5)
    assert counts[2] == 0
    assert chisquare(counts[[0, 1, 3, 4]]).pvalue > 1e-3


def test_confusable_noise_takes_the_nearest_class_and_the_labels_given_stay() -> None:
    before = LABELS.copy()
    np.testing.assert_array_equal(noisy("confusable", 1.0), NEAREST[LABELS])
    np.testing.assert_array_equal(LABELS, before)


def test_nearest_classes_are_by_cosine_of_the_means_and_never_without_rows() -> None:
    rng = np.random.default_rng(0)
    angles = np.radians([0, 50, 80, 200])
    labels = np.repeat([0, 1, 2, 4], 25)
    means = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array([[1], [9], [2], [5]])
    x = np.repeat(means, 25, axis=0) + rng.normal(scale=0.01, size=(100, 2))
    assert nearest_classes(x, labels, 5).tolist() == [1, 2, 1, -1, 2]
    assert nearest_classes(x.astype(np.float32), labels, 5).tolist() == [1, 2, 1, -1, 2]
    # Every rival points the other way, so that a cosine of 0 with the empty class would win.
    assert nearest_classes(np.array([[1.0], [-1.0]]), np.array([0, 2]), 3).tolist() == [2, -1, 0]


def test_noise_that_cannot_be_planted_is_refused() -> None:
    with pytest.raises(UserError, match="only one class"):
        plant(np.zeros(9, np.int64), 1, "uniform", 0.5, 0)
    with pytest.raises(UserError, match="only one class"):
        nearest_classes(np.ones((3, 2)), np.ones(3, np.int64), 4)
    with pytest.raises(ValueError, match="no noise"):
        noisy("odd", 0.1)
    with pytest.raises(ValueError, match="share of 1.5"):
        noisy("uniform", 1.5)
    for nearest in (None, NEAREST[:4], np.array([0, 0, 0, 0, 0]), np.array([-1, 0, 0, 0, 0])):
        with pytest.raises(ValueError, match="nearest class"):
            plant(LABELS, 5, "confusable", 1.0, 0, nearest)


def plain_auc(difficulty: np.ndarray, planted: np.ndarray) -> float:
    pairs = [(a > b) + (a == b) / 2 for a in difficulty[planted] for b in difficulty[~planted]]
    return float(np.mean(pairs))


def plain_average_precision(difficulty: np.ndarray, planted: np.ndarray) -> float:
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(difficulty), reverse=True):
        taken = difficulty >= threshold
        recall = planted[taken].sum() / planted.sum()
        total += (recall - recall_before) * planted[taken].mean()
        recall_before = recall
    return total


def plain_found(difficulty: np.ndarray, planted: np.ndarray) -> float:
    """Ties broken by chance, many times over."""
    p, rng = planted.sum(), np.random.default_rng(0)
    orders = (np.lexsort((rng.random(len(planted)), -difficulty)) for _ in range(800))
    return float(np.mean([planted[order[:p]].mean() for order in orders]))


@settings(deadline=None, max_examples=60)
@given(
    difficulty=arrays(np.float64, 14, elements=st.sampled_from([-2.0, -0.5, 0.0, 1.0, 1.5, 8.0])),
    planted=arrays(np.bool_, 14).filter(lambda p: 0 < p.sum() < 14),
)
def test_auc_and_average_precision_are_those_of_plain_definitions(
    difficulty: np.ndarray, planted: np.ndarray
) -> None:
    found = detection(difficulty, planted)
    assert found["auc"] == pytest.approx(plain_auc(difficulty, planted), abs=1e-12)
    expected = plain_average_precision(difficulty, planted)
    assert found["average_precision"] == pytest.approx(expected, abs=1e-12)


def test_found_among_ties_is_what_chance_finds_on_average() -> None:
    difficulty = np.array([3, 2, 2, 2, 2, 1, 1, 0, 0, 0], np.float64)
    planted = np.array([1, 1, 1, 0, 0, 1, 0, 0, 0, 0], bool)
    found = detection(difficulty, planted)["found"]
    # One of the first, and three of the four ties, half of which are planted.
    assert found == pytest.approx((1 + 3 * 2 / 4) / 4)
    assert found == pytest.approx(plain_found(difficulty, planted), abs=0.03)


def test_a_perfect_a_blind_and_a_reversed_score() -> None:
    planted = np.arange(10) < 3
    assert detection(planted.astype(float), planted) == {"auc": 1, "average_precision": 1, "found": 1}
    blind = detection(np.ones(10), planted)
    assert blind == pytest.approx({"auc": 0.5, "average_precision": 0.3, "found": 0.3})
    assert detection(-planted.astype(float), planted)["auc"] == 0


def test_without_planted_or_other_rows_there_is_no_number() -> None:
    assert all(math.isnan(v) for v in detection(np.arange(4.0), np.zeros(4, bool)).values())
    everything = detection(np.arange(4.0), np.ones(4, bool))
    assert math.isnan(everything["auc"]) and everything["average_precision"] == 1
    with pytest.raises(ValueError, match="difficulty"):
        detection(np.array([np.nan, 1]), np.array([True, False]))
