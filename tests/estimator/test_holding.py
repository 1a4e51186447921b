"""The rule of a refresh: holds where errors are alike, not where they grew; few pairs say nothing."""

from __future__ import annotations

import numpy as np
import pytest

from nncift_core.estimator.holding import Holding, holding, larger


def rule(
    errors_batch: np.ndarray,
    errors_known: np.ndarray,
    errors_between: np.ndarray | None = None,
    verdicts: tuple[str | None, str] = ("trusted", "trusted"),
    each: int = 1,
    **settings: float,
) -> Holding:
    """The rule on pairs of the newest batch, of earlier batches since the labels, and of known rows.

    each: pairs that a new row has; known ones have one.
    """
    between = np.empty(0) if errors_between is None else errors_between
    errors = np.concatenate([errors_batch, between, errors_known])
    place = np.arange(len(errors))
    batch = place < len(errors_batch)
    since = place < len(errors_batch) + len(between)
    given = {"level": 0.01, "minimum": 20, **settings}
    groups = np.where(since, place // each, place)
    zeros = np.zeros(len(errors))
    return holding(errors, zeros, batch, since, groups, verdicts, "why", **given)  # type: ignore[arg-type]


def noise(seed: int, n: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, n)


def test_alike_errors_hold_and_the_figures_are_told() -> None:
    found = rule(noise(0, 60), noise(1, 200))
    assert found.holds and found.judged and found.pairs == 60
    assert found.p is not None and found.p > 0.01
    assert found.error_new == pytest.approx(np.sqrt(np.mean(noise(0, 60) ** 2)))
    assert found.reason.startswith("no sign of larger errors on new rows or targets: root mean squared error")


def test_larger_errors_on_the_batch_do_not_hold() -> None:
    found = rule(noise(0, 60, 3.0), noise(1, 200))
    assert not found.holds and found.p is not None and found.p < 0.01
    assert found.reason.startswith("errors are larger on new rows or targets than on known ones")
    assert rule(noise(0, 60, 0.3), noise(1, 200)).holds, "smaller errors are no reason to add labels"


def test_slow_drift_is_seen_over_all_batches_since_the_labels() -> None:
    batch, between, known = noise(0, 25, 1.6), noise(1, 300, 1.6), noise(2, 400)
    assert rule(batch, known).holds, "this batch alone passes"
    found = rule(batch, known, between)
    assert not found.holds
    assert "rows or targets that came after the labels" in found.reason and "on 325 pairs" in found.reason


def test_few_new_pairs_say_nothing() -> None:
    found = rule(noise(0, 19, 50.0), noise(1, 200))
    assert found.holds and not found.judged and found.p is None
    assert found.reason.startswith("19 measuring pairs of 19 new rows or targets are too few")
    assert not rule(noise(0, 60, 50.0), noise(1, 200), each=15).judged, "60 pairs, but of 4 rows"
    alone = rule(noise(0, 60), np.empty(0))
    assert alone.holds and not alone.judged and "none of known rows" in alone.reason


def test_a_refusal_that_is_new_does_not_hold_and_an_old_one_says_nothing() -> None:
    given = noise(0, 60), noise(1, 200)
    found = rule(*given, verdicts=("weak", "refused"))
    assert not found.holds and found.reason == "the audit now refuses estimates that were weak before: why"
    for before in ("refused", None):
        assert rule(*given, verdicts=(before, "refused")).holds
    assert rule(*given, verdicts=("trusted", "weak")).holds


def test_the_level_is_the_rate_of_false_alarms() -> None:
    """One-sided tests at 5 %: of 400 repeated draws about 20 err; 40 is beyond five standard deviations."""
    rng = np.random.default_rng(5)
    alarms = sum(not rule(rng.normal(size=60), rng.normal(size=200), level=0.05).holds for _ in range(400))
    assert 4 <= alarms <= 40


def test_rows_that_are_hard_for_every_target_do_not_pass_for_many_pairs() -> None:
    """Six new rows of ten pairs each, no different from known ones: a test of pairs rejects too often."""
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(3)
    ours = pairs = 0
    for _ in range(400):
        new = np.abs(rng.normal(size=(6, 1)) + rng.normal(size=(6, 10))).ravel()
        known = np.abs(rng.normal(size=200) + rng.normal(size=200))
        ours += larger(new, known, np.repeat(np.arange(6), 10), np.arange(200)) < 0.05
        pairs += mannwhitneyu(new, known, alternative="greater").pvalue < 0.05
    assert pairs > 60, "which would be 15 % instead of 5 %"
    assert 4 <= ours <= 40


def test_errors_without_variation_say_nothing_or_all() -> None:
    zero, groups = np.zeros(30), np.arange(30)
    assert larger(zero, zero, groups, groups) == 0.5
    assert larger(zero + 1, zero, groups, groups) == 0
    assert larger(zero, zero + 1, groups, groups) == 1
