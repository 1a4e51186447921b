"""Intervals against scipy and by simulation; verdicts."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats

from nncift_core.evaluation import compare, mean_interval, t_quantile

Float64 = npt.NDArray[np.float64]


@pytest.mark.parametrize("dof", [1, 1.2, 2, 2.7, 3, 4, 9.5, 30, 198, 5000])
@pytest.mark.parametrize("probability", [0.001, 0.05, 0.5, 0.6, 0.9, 0.95, 0.975, 0.999])
def test_t_quantile_equals_scipy(probability: float, dof: float) -> None:
    expected = scipy.stats.t.ppf(probability, dof)
    assert t_quantile(probability, dof) == pytest.approx(expected, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(("probability", "dof"), [(0.95, 0.9), (0.0, 3), (1.0, 3), (math.nan, 3)])
def test_t_quantiles_out_of_range_are_refused(probability: float, dof: float) -> None:
    with pytest.raises(ValueError, match="no t quantile"):
        t_quantile(probability, dof)


@pytest.mark.parametrize("level", [0.9, 0.5])
def test_mean_interval_equals_scipys_percentile_bootstrap(level: float) -> None:
    values = np.random.default_rng(0).gamma(1.0, size=80)
    found = mean_interval(values, 3, level)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, confidence_level=level, method="percentile", rng=1
    ).confidence_interval
    # The ends of 2,000 draws scatter by about 0.03 standard errors.
    np.testing.assert_allclose(found, expected, atol=0.15 * values.std() / math.sqrt(80))
    assert found == mean_interval(values, 3, level)


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_few_rows_give_few_false_verdicts(rows: int) -> None:
    """A percentile bootstrap alone would find a winner in 48, 37 and 18 of 100 here."""
    rng = np.random.default_rng(rows)
    false = 0
    for k in range(300):
        per_row = rng.normal(size=rows)
        ours = per_row + rng.normal(scale=1e-3, size=(3, rows))
        false += compare(ours, np.zeros((3, rows)), True, k).verdict in ("better", "worse")
    assert false / 300 < 0.15


def test_mean_interval_of_many_rows_stays_small_and_right() -> None:
    values = np.random.default_rng(0).normal(size=30_000)
    lower, upper = mean_interval(values, 0)
    assert (lower - values.mean(), upper - values.mean()) == pytest.approx(
        (-1.645 / math.sqrt(30_000), 1.645 / math.sqrt(30_000)), rel=0.1
    )


def test_mean_interval_of_next_to_nothing() -> None:
    assert all(math.isnan(x) for n in (0, 1) for x in mean_interval(np.ones(n), 0))
    assert mean_interval(np.full(5, 2.5), 0) == (2.5, 2.5)


def test_half_widths_by_hand() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = rng.normal(1.0, 0.3, (3, 400)), rng.normal(1.4, 0.3, (3, 400))
    found = compare(ours, theirs, higher_is_better=False, seed=0)
    difference = theirs - ours
    per_seed, per_row = difference.mean(axis=1), difference.mean(axis=0)
    seeds = scipy.stats.t.ppf(0.95, 2) * per_seed.std(ddof=1) / math.sqrt(3)
    rows = 1.645 * per_row.std() / math.sqrt(400)
    assert found.gain == pytest.approx(difference.mean())
    half = math.hypot(seeds, rows)
    assert (found.lower, found.upper) == pytest.approx((found.gain - half, found.gain + half), abs=0.1 * half)
    assert (found.value, found.against_value) == pytest.approx((ours.mean(), theirs.mean()))
    assert (found.n_seeds, found.n_rows, found.verdict) == (3, 400, "better")


def seed_half(ours: list[float], theirs: list[float]) -> float:
    """Half-width where rows do not differ, so that only the seeds' doubt is left."""
    a, b = (np.repeat(np.array(side)[:, None], 4, axis=1) for side in (ours, theirs))
    found = compare(a, b, True, seed=0)
    assert found.upper - found.gain == pytest.approx(found.gain - found.lower)
    return found.upper - found.gain


def test_seeds_are_paired_when_equally_many() -> None:
    expected = scipy.stats.ttest_rel([1.0, 2.0, 4.0], [0.5, 1.7, 3.0]).confidence_interval(0.9)
    assert seed_half([1.0, 2.0, 4.0], [0.5, 1.7, 3.0]) == pytest.approx((expected.high - expected.low) / 2)


def test_unequal_numbers_of_seeds_go_by_welch() -> None:
    ours, theirs = [1.0, 2.0, 4.0, 4.5, 2.2], [0.5, 0.7]
    expected = scipy.stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.9)
    assert seed_half(ours, theirs) == pytest.approx((expected.high - expected.low) / 2)
    assert seed_half(theirs, ours) == pytest.approx((expected.high - expected.low) / 2)


def test_a_side_without_seeds_is_taken_as_known() -> None:
    expected = scipy.stats.ttest_1samp([1.0, 2.0, 4.0], 0.5).confidence_interval(0.9)
    assert seed_half([1.0, 2.0, 4.0], [0.5]) == pytest.approx((expected.high - expected.low) / 2)
    assert seed_half([0.5], [1.0, 2.0, 4.0]) == pytest.approx((expected.high - expected.low) / 2)
    assert compare(np.ones((3, 4)), np.ones((1, 4)), True, 0).n_seeds == 3


def test_seeds_that_agree_leave_the_rows_doubt() -> None:
    rows = np.random.default_rng(0).normal(0.5, 1, 50)
    for shapes in ((3, 3), (3, 2), (3, 1)):
        a, b = np.tile(rows, (shapes[0], 1)), np.zeros((shapes[1], 50))
        found = compare(a, b, True, seed=7)
        assert (found.lower, found.upper) == pytest.approx(mean_interval(rows, 7))
    assert seed_half([1.0, 1.0 + 1e-15, 1.0], [0.0, 0.0]) < 1e-14


def test_gain_is_positive_for_ours_whichever_way_the_metric_points() -> None:
    high = np.random.default_rng(0).normal(2.0, 0.1, (3, 50))
    low = high - 1.0
    for ours, theirs, up in ((high, low, True), (low, high, False)):
        assert compare(ours, theirs, up, 0).gain == pytest.approx(1)
        assert compare(ours, theirs, up, 0).verdict == "better"
        assert compare(theirs, ours, up, 0).gain == pytest.approx(-1)
        assert compare(theirs, ours, up, 0).verdict == "worse"


def test_one_seed_gives_no_winner() -> None:
    ours, theirs = np.full((1, 30), 9.0), np.zeros((1, 30))
    found = compare(ours, theirs, True, 0)
    assert (found.verdict, found.gain, found.lower, found.n_seeds) == ("one seed: no verdict", 9, 9, 1)
    assert compare(ours, theirs, True, 0, seeded=False).verdict == "better"
    assert compare(np.repeat(ours, 2, axis=0), theirs, True, 0).verdict == "better"


def test_one_row_gives_no_winner() -> None:
    found = compare(np.full((3, 1), 9.0), np.zeros((3, 1)), True, 0)
    assert math.isnan(found.lower) and math.isnan(found.upper)
    assert (found.gain, found.verdict) == (9, "no clear difference")


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((2, 3), (2, 4)), ((0, 3), (2, 3)), ((2, 0), (2, 0))])
def test_other_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        compare(np.ones(shapes[0]), np.ones(shapes[1]), True, 0)


def simulate(seeds: tuple[int, int], gain: float, number: int, seed_sd: float = 0.03) -> list[str]:
    """Verdicts on made-up losses of 60 rows: rows differ widely, rows gain unequally, seeds scatter, and
    every seed has noise of its own on every row; `gain` is the truth over all rows and seeds."""
    verdicts = []
    for k in range(number):
        rng = np.random.default_rng(k)
        row = rng.gamma(2.0, 0.5, 60)
        sides = [
            row
            + rng.normal(0, 0.15, 60) * (count > 1)
            + rng.normal(0, seed_sd, (count, 1)) * (count > 1)
            + rng.normal(0, 0.05, (count, 60))
            for count in seeds
        ]
        verdicts.append(compare(sides[0] - gain, sides[1], False, seed=k).verdict)
    return verdicts


@pytest.mark.parametrize("seed_sd", [0.0, 0.03, 0.2])
@pytest.mark.parametrize("seeds", [(3, 3), (3, 1), (4, 2)])
def test_intervals_cover_no_gain(seeds: tuple[int, int], seed_sd: float) -> None:
    verdicts = simulate(seeds, 0.0, 400, seed_sd)
    assert 0.85 <= verdicts.count("no clear difference") / 400 <= 0.99


def test_real_gains_are_found() -> None:
    assert simulate((3, 3), 0.3, 100).count("better") >= 95
    assert simulate((3, 3), -0.3, 100).count("worse") >= 95
    assert simulate((3, 1), 0.3, 100).count("better") >= 95


def test_rows_without_a_number_are_left_out_on_both_sides() -> None:
    ours, theirs = np.arange(12.0).reshape(2, 6) ** 2, np.arange(6.0)[None]
    holed = ours.copy(), theirs.copy()
    holed[0][1, 0], holed[1][0, 3] = np.nan, np.nan
    kept = [1, 2, 4, 5]
    assert compare(*holed, True, 0) == compare(ours[:, kept], theirs[:, kept], True, 0)
    assert compare(*holed, True, 0).n_rows == 4
    values = np.array([1.0, np.nan, 3.0, 4.0])
    assert mean_interval(values, 0) == mean_interval(values[[0, 2, 3]], 0)


def test_where_no_row_has_numbers_on_both_sides_there_is_no_verdict() -> None:
    found = compare(np.array([[1.0, np.nan]]), np.array([[np.nan, 2.0]]), True, 0)
    assert (found.n_rows, found.verdict) == (0, "no rows to compare") and np.isnan(found.gain)
    assert np.isnan(mean_interval(np.full(5, np.nan), 0)).all()
