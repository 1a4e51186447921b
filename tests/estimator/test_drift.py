"""Estimates for what came after the labels: caught when wrong, left alone when right, silent when few."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from nncift_core.estimator.drift import after_drift, drift
from nncift_core.estimator.gate import Verdict

TRUSTED = Verdict("trusted", "ranks unseen pairs better", "proxy", "proxy", 0.2, 0.1, 0.3)


def audit(seed: int, n_new: int, wrong: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """300 pairs, each of its own row, `n_new` of them new, predicted with noise of a third; `wrong` shifts
    the new predictions."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_t(3, size=300)
    new = np.arange(300) < n_new
    return truth, truth + 0.3 * rng.normal(size=300) + wrong * new * rng.normal(size=300), new, np.arange(300)


def test_a_new_domain_is_caught_nearly_always():
    found = [drift(*audit(seed, 40, 2.0), 0.0) for seed in range(40)]
    assert sum(f.worse for f in found) >= 38
    assert sum(after_drift(TRUSTED, f).level == "refused" for f in found) >= 30


def test_more_of_the_same_is_hardly_ever_refused():
    found = [drift(*audit(seed, 60, 0.0), 0.0) for seed in range(200)]
    assert sum(f.worse for f in found) <= 8, "nominal: 2"
    (held, *_) = [f for f in found if not f.worse]
    assert after_drift(TRUSTED, held) == TRUSTED
    assert held.told.startswith("no sign that estimates of what came after the labels are worse: root mean")


def test_worse_but_better_than_the_mean_is_weak():
    found = drift(*audit(1, 60, 0.8), 0.0)
    assert found.worse and found.skill is not None and found.skill > 0
    verdict = after_drift(TRUSTED, found)
    assert verdict.level == "weak" and verdict.fallback == "proxy"
    assert "does not hold for what came after its labels" in verdict.reason
    assert TRUSTED.reason in verdict.reason
    refused = replace(TRUSTED, level="refused")
    assert after_drift(refused, found).level == "refused"


@pytest.mark.parametrize("n_new, told", [(0, ""), (19, "19 audit pairs .* are too few to say")])
def test_too_few_new_pairs_say_nothing(n_new: int, told: str):
    found = drift(*audit(0, n_new, 9.0), 0.0)
    assert found.p is None and not found.worse
    assert re.fullmatch(told + ".*" if told else "", found.told)
    assert after_drift(TRUSTED, found) == TRUSTED


def test_a_few_rows_that_are_hard_for_every_target_are_no_alarm():
    """A test that takes their pairs for independent raises it in 14 of these draws."""
    alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        rows = np.repeat(np.arange(60), 5)
        hard = np.exp(rng.normal(size=60))[rows]
        truth = rng.normal(size=300)
        alarms += drift(truth, truth + hard * rng.normal(size=300), rows < 6, rows, 0.0).worse
    assert alarms <= 10, "nominal: 2"


def test_pairs_of_four_new_rows_say_nothing():
    truth, predicted, new, _ = audit(0, 40, 9.0)
    found = drift(truth, predicted, new, np.where(new, np.arange(300) % 4, np.arange(300)), 0.0)
    assert found.p is None and "too few" in found.told
