"""LDS on worlds whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nncift_core.attribution import keep_subsets, lds, query_correlations, seed_agreement, subset_sums

ROWS, QUERIES, MODELS = 60, 8, 40
IDS = np.arange(1000, 1000 + ROWS)


def counts_of(subsets: list[np.ndarray]) -> np.ndarray:
    return np.stack([np.bincount(s, minlength=ROWS) for s in subsets])


def test_exact_influences_of_a_linear_world_score_1_and_their_negatives_minus_1() -> None:
    rng = np.random.default_rng(0)
    effect = rng.normal(size=(ROWS, QUERIES))
    counts = counts_of(keep_subsets(IDS, MODELS, 0.5, seed=3))
    losses = 5.0 - counts @ effect
    sums = subset_sums(effect, counts)
    right, wrong = lds(sums, losses), lds(-sums, losses)
    assert right.value == pytest.approx(1) and right.upper <= 1 and right.lower == pytest.approx(1)
    assert wrong.value == pytest.approx(-1) and right.n == QUERIES


def test_leave_one_out_influence_of_ridge_regression_scores_high_and_random_values_near_0() -> None:
    rng = np.random.default_rng(1)
    x, queries = rng.normal(size=(ROWS, 5)), rng.normal(size=(QUERIES, 5))
    truth = rng.normal(size=5)
    # Far from what any model says, so that a loss rises with the model's answer as a line does.
    y, answers = x @ truth + rng.normal(size=ROWS), queries @ truth + 9

    def query_losses(rows: np.ndarray) -> np.ndarray:
        a = x[rows]
        weights = np.linalg.solve(a.T @ a + np.eye(5), a.T @ y[rows])
        return (queries @ weights - answers) ** 2

    everything = np.arange(ROWS)
    whole = query_losses(everything)
    # What a row is worth: how much the loss rises without it.
    values = np.stack([query_losses(np.delete(everything, i)) - whole for i in range(ROWS)])
    subsets = keep_subsets(IDS, MODELS, 0.8, seed=0)
    losses = np.stack([query_losses(s) for s in subsets])
    measured = lds(subset_sums(values, counts_of(subsets)), losses)
    chance = lds(subset_sums(rng.normal(size=values.shape), counts_of(subsets)), losses)
    assert measured.value > 0.9 and measured.lower > 0.8
    assert abs(chance.value) < 0.2 and chance.lower < 0 < chance.upper


def test_sums_left_out_rank_models_as_sums_kept() -> None:
    rng = np.random.default_rng(2)
    values, losses = rng.normal(size=(ROWS, QUERIES)), rng.normal(size=(MODELS, QUERIES))
    counts = counts_of(keep_subsets(IDS, MODELS, 0.3, seed=0))
    kept = query_correlations(subset_sums(values, counts), losses)
    left_out = query_correlations(-subset_sums(values, 1 - counts), losses)
    np.testing.assert_allclose(kept, left_out, atol=1e-12)
    by_scipy = [stats.spearmanr((counts @ values)[:, j], -losses[:, j]).statistic for j in range(QUERIES)]
    np.testing.assert_allclose(kept, by_scipy, atol=1e-12)


def test_a_row_held_twice_counts_twice() -> None:
    sums = subset_sums(np.array([[1.0, 2.0], [10.0, 20.0]]), np.array([[2, 1], [0, 3]]))
    np.testing.assert_allclose(sums, [[12, 24], [30, 60]])


def test_a_constant_ranks_nothing_whatever_its_sums_round_to() -> None:
    values = np.full((ROWS, QUERIES), np.float32(0.1))
    counts = counts_of(keep_subsets(IDS, MODELS, 0.5, seed=0))
    sums = subset_sums(values, counts) + np.random.default_rng(0).normal(size=(MODELS, QUERIES)) * 1e-13
    assert lds(sums, np.random.default_rng(1).normal(size=sums.shape)).value == 0


def test_the_interval_covers_what_more_models_would_say() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(20):
        signal = rng.normal(size=(30, 6))
        noisy = -signal + rng.normal(size=signal.shape)
        measured = lds(signal, noisy, seed=1)
        # Spearman of a bivariate normal with correlation 1/sqrt(2).
        covered += measured.lower <= 6 / math.pi * math.asin(math.sqrt(0.5) / 2) <= measured.upper
    assert covered >= 15


def test_too_little_to_draw_from_gives_no_interval_and_none_at_all_is_refused() -> None:
    one_query = lds(np.arange(5.0)[:, None], -np.arange(5.0)[:, None])
    assert one_query.value == 1 and math.isnan(one_query.lower)
    for shape in ((1, 3), (4, 0)):
        with pytest.raises(ValueError, match="no LDS"):
            lds(np.zeros(shape), np.zeros(shape))


def test_seeds_that_rank_alike_agree_and_one_seed_says_nothing() -> None:
    losses = np.random.default_rng(0).normal(size=(1, 20, 4))
    assert seed_agreement(np.concatenate([losses, 2 * losses])) == pytest.approx(1)
    assert seed_agreement(np.concatenate([losses, -losses])) == pytest.approx(-1)
    assert math.isnan(seed_agreement(losses))
