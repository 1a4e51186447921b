"""Means over seeds, beside all data and random rows; the honesty of the interval by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pruning.made_points import point, seeded

from nncift_core.pruning.paired import by_seed, gain_of, row_doubt
from nncift_core.pruning.summary import long_rows, summarise

RANDOM = seeded("random", [0.70, 0.71, 0.72], pruned=0.3)
FULL = seeded("all", [0.80, 0.81, 0.82])


def row(points, score, **wanted):
    found = [r for r in summarise(points) if r["score"] == score]
    found = [r for r in found if all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1
    return found[0]


def test_change_and_gain_are_paired_by_seed():
    ours = seeded("el2n", [0.76, 0.77, 0.78], pruned=0.3)
    got = row([*FULL, *RANDOM, *ours], "el2n")
    assert got["n_seeds"] == 3 and got["n_train"] == 700
    assert got["accuracy"] == pytest.approx(0.77) and got["spread"] == pytest.approx(0.01)
    assert got["change"] == pytest.approx(-0.04) and got["change_spread"] == pytest.approx(0, abs=1e-12)
    assert got["gain"] == pytest.approx(0.06) and got["verdict"] == "better"
    assert got["gain_lower"] <= got["gain"] <= got["gain_upper"]
    assert got["relative_error"] == pytest.approx(0.04 / 0.19)
    assert got["efficiency"] == pytest.approx(0.04 / 0.19 / 0.3)


def test_seeds_that_only_one_side_has_do_not_count_in_a_difference():
    ours = [*seeded("el2n", [0.76, 0.77], pruned=0.3), point("el2n", 9, accuracy=0.1, pruned=0.3)]
    got = row([*FULL, *RANDOM, *ours], "el2n")
    assert got["n_seeds"] == 3 and got["gain"] == pytest.approx(0.06)


def test_one_seed_gives_no_verdict_and_no_interval():
    points = [
        point("all"),
        point("random", accuracy=0.5, pruned=0.3),
        point("el2n", accuracy=0.9, pruned=0.3),
    ]
    got = row(points, "el2n")
    assert got["gain"] == pytest.approx(0.4)
    assert got["verdict"] is got["gain_lower"] is got["gain_upper"] is got["spread"] is None


def test_a_gain_within_the_spread_is_no_clear_difference():
    ours = seeded("el2n", [0.76, 0.66, 0.74], pruned=0.3)
    assert row([*FULL, *RANDOM, *ours], "el2n")["verdict"] == "no clear difference"


def test_a_clear_loss_is_worse():
    assert row([*RANDOM, *seeded("el2n", [0.50, 0.51, 0.52], pruned=0.3)], "el2n")["verdict"] == "worse"


def test_random_rows_of_another_share_study_or_noise_are_no_comparison():
    ours = seeded("el2n", [0.76, 0.77, 0.78], pruned=0.3)
    for changes in ({"pruned": 0.1}, {"study": "noise"}, {"noise": "uniform", "noise_rate": 0.1}):
        other = seeded("random", [0.7, 0.7, 0.7], **{"pruned": 0.3, **changes})
        got = row([*ours, *other], "el2n")
        assert got["gain"] is None and got["verdict"] is None and got["change"] is None


def test_all_data_and_random_rows_have_no_gain_of_their_own():
    points = [*FULL, *RANDOM]
    full, random = row(points, "all"), row(points, "random")
    assert full["change"] is None and full["gain"] is None and full["worst_class"] is None
    assert random["gain"] is None and random["change"] == pytest.approx(-0.1)


def test_the_worst_class_has_rows_enough_and_fell_most():
    before = {"a": [90, 100], "b": [40, 50], "small": [4, 4]}
    after = {"a": [80, 100], "b": [30, 50], "small": [0, 4]}
    points = [point("all", per_class=before), point("el2n", per_class=after, pruned=0.3)]
    got = row(points, "el2n")
    assert (got["worst_class"], got["worst_class_change"]) == ("b", pytest.approx(-0.2))
    assert got["worst_group"] is None


def test_groups_and_tails_are_compared_with_all_data():
    full = point("all", per_group={"x": [9, 10], "y": [8, 10]}, tail=[5, 10])
    ours = point("el2n", pruned=0.3, per_group={"x": [9, 10], "y": [6, 10]}, tail=[2, 10])
    got = row([full, ours], "el2n")
    assert (got["worst_group"], got["worst_group_change"]) == ("y", pytest.approx(-0.2))
    assert got["tail_accuracy"] == pytest.approx(0.2) and got["tail_change"] == pytest.approx(-0.3)


def test_no_error_of_all_data_leaves_relative_error_undefined():
    points = [point("all", accuracy=1.0), point("el2n", accuracy=0.9, pruned=0.3)]
    got = row(points, "el2n")
    assert got["relative_error"] is None and got["efficiency"] is None


def test_planted_labels_are_averaged_and_absent_without_noise():
    points = [point("el2n", s, pruned=0.3, mislabelled=m) for s, m in enumerate((3, 5))]
    assert row(points, "el2n")["mislabelled"] == 4
    assert row(RANDOM, "random")["mislabelled"] is None


def test_a_point_given_twice_is_refused():
    with pytest.raises(ValueError, match="two points of seed 0"):
        summarise([point("all"), point("all")])


def test_long_rows_have_every_scope():
    rows = long_rows(
        [point("all", per_class={"a": [1, 2]}, per_group={"g": [1, 2], "none": [0, 0]}, tail=[1, 2])]
    )
    at = {(r["scope"], r["name"], r["metric"]): (r["value"], r["n_rows"]) for r in rows}
    assert set(at) == {
        ("all", "", "accuracy"),
        ("all", "", "macro_accuracy"),
        ("all", "", "log_loss"),
        ("class", "a", "accuracy"),
        ("group", "g", "accuracy"),
        ("tail", "", "accuracy"),
    }
    assert at["class", "a", "accuracy"] == (0.5, 2) and at["all", "", "accuracy"] == (0.5, 2)
    assert "per_class" not in rows[0] and rows[0]["study"] == "curve"


def _draw(rng, classes, rows, shared, seeds):
    """Two arms of equal true accuracy on the same rows, most of whose fate is the row's own."""
    hard = rng.normal(size=(classes, rows)) + rng.normal(size=(classes, 1))
    arms = []
    for _ in range(2):
        own = rng.normal(size=(classes, rows))
        right = shared * hard + (1 - shared) * (own + 0.5 * rng.normal(size=(seeds, classes, rows))) < 0.8
        counts = right.sum(axis=2)
        arms.append(
            by_seed(
                point(
                    "x",
                    s,
                    per_class={f"c{k:02}": [int(counts[s, k]), rows] for k in range(classes)},
                    right=right[s].ravel(),
                )
                for s in range(seeds)
            )
        )
    return arms


@pytest.mark.parametrize("shared", [0.0, 0.6])
@pytest.mark.parametrize("classes", [3, 20, 40])
def test_the_interval_holds_its_promise_when_nothing_differs(classes, shared):
    rng = np.random.default_rng(classes)
    covers = []
    for _ in range(200):
        gain, _ = gain_of(*_draw(rng, classes, 1200 // classes, shared, 3))
        covers.append(gain.lower <= 0 <= gain.upper)
    assert 0.87 <= np.mean(covers) <= 0.995


def test_a_loss_that_hits_few_classes_is_still_seen():
    broken = {f"c{k:02}": [5 if k < 2 else 18, 18] for k in range(40)}
    whole = {f"c{k:02}": [18, 18] for k in range(40)}
    points = [point("random", s, pruned=0.5, per_class=whole) for s in range(3)]
    points += [point("el2n", s, pruned=0.5, per_class=broken) for s in range(3)]
    got = row(points, "el2n")
    assert got["verdict"] == "worse" and got["gain_rows"] < 0.01


def test_the_rows_doubt_is_that_of_paired_rows():
    rng = np.random.default_rng(0)
    ours, theirs = (list(arm.values()) for arm in _draw(rng, 4, 300, 0.7, 3))
    a, b = (np.mean([p["right"] for p in arm], axis=0) for arm in (ours, theirs))
    plain = math.sqrt(sum((x - y - (a - b).mean()) ** 2 for x, y in zip(a, b, strict=True)) / 1199 / 1200)
    assert row_doubt(ours, theirs) == pytest.approx(math.hypot(plain, 1 / 1200), rel=1e-9)
    unpaired = math.sqrt((a.var() + b.var()) / 1200)
    assert row_doubt(ours, theirs) < 0.8 * unpaired, "most of a row's fate is its own"
    assert row_doubt(ours, ours) == 1 / 1200
