"""The paper's claims, judged from made points."""

from __future__ import annotations

import pytest
from pruning.made_points import point, seeded

from nncift_core.pruning.findings import findings
from nncift_core.pruning.summary import summarise

KEYS = {
    "hard-hurts",
    "el2n-early",
    "vog-normalisation",
    "probabilistic-softmax",
    "probabilistic-linear",
    "beats-random-el2n",
    "beats-random-tracin",
    "beats-random-pvi",
    "noise-vog-easy",
    "noise-hard",
    "noise-not-removal",
    "tails-are-not-mislabels",
    "imbalance-stratified",
    "imbalance-vog-dataset",
}
LOW, MIDDLE, HIGH = [0.60, 0.61, 0.62], [0.70, 0.71, 0.72], [0.80, 0.81, 0.82]
UNSTEADY = [0.60, 0.71, 0.84]
FULL = seeded("all", HIGH)
RANDOM = seeded("random", MIDDLE, pruned=0.5)
NOISY = {"study": "noise", "noise": "uniform", "noise_rate": 0.1}


def judge(points, detection=()):
    return {r["finding"]: r for r in findings(summarise(points), list(detection), points)}


def holds(key, points, detection=()):
    return judge(points, detection)[key]["holds"]


def el2n(accuracies, pruned=0.5, **changes):
    return seeded("el2n", accuracies, pruned=pruned, **{"variant": "early", **changes})


def test_nothing_is_claimed_of_what_was_not_studied():
    got = judge([])
    assert set(got) == KEYS
    for r in got.values():
        assert r["holds"] == "not studied" and r["effect"] is None and r["spread"] is None
        assert r["text"].startswith("not studied: needs")


def test_pruning_hard_is_judged_against_random_rows_at_the_largest_share():
    small = [*seeded("random", MIDDLE, pruned=0.1), *el2n(HIGH, 0.1, pruned_end="hard")]
    for accuracies, expected in ((LOW, "yes"), (HIGH, "no"), (UNSTEADY, "unclear")):
        hard = el2n(accuracies, pruned_end="hard")
        assert holds("hard-hurts", [*FULL, *RANDOM, *small, *hard]) == expected
    got = judge([*RANDOM, *el2n(LOW, pruned_end="hard")])["hard-hurts"]
    assert got["effect"] == pytest.approx(-0.1) and got["spread"] == pytest.approx(0, abs=1e-9)
    assert "at 0.5 pruned" in got["text"] and "-10.00 points" in got["text"]


def test_one_seed_leaves_a_claim_unclear():
    points = [point("random", pruned=0.5), point("el2n", accuracy=0.5, pruned=0.5, pruned_end="hard")]
    got = judge(points)["hard-hurts"]
    assert got["holds"] == "unclear" and got["spread"] is None and "one seed" in got["text"]


def test_early_el2n_against_late_of_the_same_setting():
    late = el2n(MIDDLE, variant="late")
    assert holds("el2n-early", [*el2n(HIGH), *late]) == "yes"
    assert holds("el2n-early", [*el2n(LOW), *late]) == "no"
    assert holds("el2n-early", [*el2n(HIGH, 0.3), *late]) == "not studied"


def test_vog_of_a_frozen_encoder_counts_as_vog():
    points = seeded("vog-embedding", HIGH, pruned=0.5, variant="class")
    points += seeded("vog-embedding", MIDDLE, pruned=0.5, variant="dataset")
    assert holds("vog-normalisation", points) == "yes"


def test_probabilistic_sampling_against_a_cut_by_the_same_score():
    cut = el2n(MIDDLE)
    got = judge([*cut, *el2n(HIGH, sampling="softmax"), *el2n(LOW, sampling="linear")])
    assert got["probabilistic-softmax"]["holds"] == "yes"
    assert got["probabilistic-linear"]["holds"] == "no"


def test_how_far_a_score_beats_random():
    def at(*given):
        points = list(FULL)
        for share, accuracies in given:
            points += [*seeded("random", MIDDLE, pruned=share), *el2n(accuracies, share)]
        return judge(points)["beats-random-el2n"]

    got = at((0.1, HIGH), (0.2, HIGH), (0.5, LOW))
    assert (got["holds"], got["effect"]) == ("yes", 0.2)
    assert "50% -10.00 points (worse)" in got["text"]
    assert at((0.1, HIGH), (0.2, UNSTEADY))["holds"] == "unclear"
    assert at((0.1, LOW), (0.2, HIGH))["holds"] == "no"
    assert at((0.5, HIGH))["holds"] == "not studied"


def test_pruning_under_noise():
    points = [*seeded("all", MIDDLE, **NOISY), *seeded("random", MIDDLE, pruned=0.5, **NOISY)]
    points += seeded("vog", HIGH, pruned=0.5, **NOISY)
    points += seeded("pvi", HIGH, pruned=0.1, pruned_end="hard", **NOISY)
    got = judge(points)
    assert got["noise-vog-easy"]["holds"] == got["noise-hard"]["holds"] == "yes"
    assert got["hard-hurts"]["holds"] == "not studied"


def test_gains_that_go_with_removed_labels_are_explained_by_them():
    def points(removed):
        out = seeded("random", MIDDLE, pruned=0.3, mislabelled=70, **NOISY)
        for k, (score, dropped) in enumerate(zip(("el2n", "aum", "pvi", "vog"), removed, strict=True)):
            gained = [a + 0.01 * k for a in MIDDLE]
            out += seeded(score, gained, pruned=0.3, mislabelled=70 - dropped, **NOISY)
        return out

    explained = judge(points((0, 10, 20, 30)))["noise-not-removal"]
    assert (explained["holds"], explained["effect"]) == ("no", pytest.approx(1))
    assert holds("noise-not-removal", points((30, 20, 10, 0))) == "yes"


def test_tails_full_of_planted_labels_refute_chance():
    def rows(found):
        return [{"seed": s, "score": "aum", "noise_rate": 0.1, "found": f} for s, f in enumerate(found)]

    got = judge([], rows([0.9, 0.91, 0.92]))["tails-are-not-mislabels"]
    assert got["holds"] == "no" and got["effect"] == pytest.approx(0.81)
    assert holds("tails-are-not-mislabels", [], rows([0.09, 0.11, 0.10])) == "yes"


def test_samplings_of_imbalanced_data():
    at = {"study": "imbalance", "pruned": 0.5}
    points = [*seeded("random", LOW, **at), *seeded("stratified", MIDDLE, **at)]
    points += seeded("vog", LOW, variant="class", **at)
    assert holds("imbalance-vog-dataset", points) == "not studied"
    got = judge([*points, *seeded("vog", HIGH, variant="dataset", **at)])
    assert got["imbalance-stratified"]["holds"] == got["imbalance-vog-dataset"]["holds"] == "yes"
    assert "(stratified)" in got["imbalance-vog-dataset"]["text"]
    lost = judge([*points, *seeded("vog", LOW, variant="dataset", **at)])
    assert lost["imbalance-vog-dataset"]["holds"] == "no"
