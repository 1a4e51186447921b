"""Conformal intervals: the rank that decides, and the coverage that is promised."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nncift_core.estimator.intervals import conformal


def test_half_width_by_hand():
    truth = np.array([3.0, -1, 4, -1, 5, -9, 2, -6, 5, 3])
    # ceil(11 * 0.9) = 10th smallest, ceil(11 * 0.5) = 6th smallest of 1 1 2 3 3 4 5 5 6 9.
    assert conformal(truth, np.zeros(10)).half_width == 9
    assert conformal(truth, np.zeros(10), level=0.5).half_width == 4
    # 19 pairs: the 18th, whatever the largest is.
    assert conformal(np.arange(19.0), np.zeros(19)).half_width == 17


def test_too_few_pairs_give_no_interval():
    nine = conformal(np.arange(9.0), np.zeros(9))
    assert (nine.half_width, nine.n) == (None, 9)
    assert nine.bounds(np.zeros(3)) is None and nine.covers(np.zeros(3), np.zeros(3)) is None
    assert nine.text == "no 90 % interval: 9 audit pairs are too few"
    assert conformal(np.empty(0), np.empty(0)).half_width is None
    assert conformal(np.arange(10.0), np.zeros(10)).half_width is not None
    assert conformal(np.arange(19.0), np.zeros(19), level=0.95).half_width is None


def test_pooled_coverage_is_as_promised():
    inside = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        # Heavy tails and a predictor that is off: the promise does not depend on either.
        truth = rng.standard_t(3, 2200)
        predicted = 0.3 * truth + 0.5 + 0.2 * rng.normal(size=2200)
        found = conformal(truth[:200], predicted[:200])
        inside.append(found.covers(truth[200:], predicted[200:]))
    assert np.mean(inside) == pytest.approx(0.9, abs=0.03)
    assert np.std(inside) < 0.04


def test_scaled_intervals_cover_and_follow_the_scale():
    inside, quiet = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scale = np.where(np.arange(1200) % 2, 0.1, 3.0)
        truth = 2 * scale * rng.normal(size=1200)
        predicted = np.zeros(1200)
        found = conformal(truth[:200], predicted[:200], scale=scale[:200])
        inside.append(found.covers(truth[200:], predicted[200:], scale[200:]))
        quiet.append(found.covers(truth[201::2], predicted[201::2], scale[201::2]))
    assert np.mean(inside) == pytest.approx(0.9, abs=0.03)
    # Without the scale all small errors would lie inside the wide intervals.
    assert np.mean(quiet) == pytest.approx(0.9, abs=0.03)
    assert found.scaled and "standard deviation" in found.text


def test_bounds_and_json():
    found = conformal(np.arange(20.0), np.zeros(20))
    lower, upper = found.bounds(np.array([[1.0], [2.0]], np.float32))
    assert lower.tolist() == [[-17.0], [-16.0]] and upper.tolist() == [[19.0], [20.0]]
    assert found.covers(np.array([18.0, 18.1]), np.zeros(2)) == 0.5
    assert found.covers(np.empty(0), np.empty(0)) is None
    row = {"half_width": 18.0, "level": 0.9, "n": 20, "scaled": False}
    assert json.loads(json.dumps(found.as_row())) == row
    assert found.text == "90 % of unseen pairs lie within 18 (20 audit pairs)"


def test_wrong_input_is_named():
    ten = np.arange(10.0)
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got 1"):
        conformal(ten, ten, level=1)
    with pytest.raises(ValueError, match=r"predicted is \[9\], the exact values are \[10\]"):
        conformal(ten, ten[1:])
    with pytest.raises(ValueError, match="1 of 10 residuals are not finite"):
        conformal(np.where(ten == 3, np.nan, ten), ten)
    with pytest.raises(ValueError, match="1 of 10 scales are not positive"):
        conformal(ten, ten, scale=ten)
    with pytest.raises(ValueError, match=r"scale is \[9\]"):
        conformal(ten, ten, scale=ten[1:])
    with pytest.raises(ValueError, match="have no scale"):
        conformal(ten, ten).bounds(ten, ten + 1)
    with pytest.raises(ValueError, match="need a scale"):
        conformal(ten, ten, scale=ten + 1).bounds(ten)
