"""Share of the exact-over-random gain, against enumeration and known answers."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from nncift_core.selection import NonNegative
from nncift_core.studies import selection_share
from nncift_core.studies.subsets import maximum_weights

RNG = np.random.default_rng(0)
EXACT = RNG.normal(size=(12, 5)).astype(np.float32)
NOTHING = np.zeros(EXACT.shape, bool)


def objective(matrix: np.ndarray, rows: tuple[int, ...], rule: str, eta: float) -> float:
    """The rule's objective, written out."""
    if rule == "top-k":
        return float(sum(matrix[r].mean() for r in rows))
    s = NonNegative.of(matrix).apply(matrix)
    covered = sum(max(s[r, c] for r in rows) for c in range(s.shape[1]))
    return float(covered + (eta * sum(s[r].max() for r in rows) if rule == "flmi" else 0))


def greedy(matrix: np.ndarray, rule: str, eta: float) -> tuple[int, ...]:
    """Three rows, each the best addition on `matrix`."""
    chosen: tuple[int, ...] = ()
    for _ in range(3):
        left = [r for r in range(len(matrix)) if r not in chosen]
        chosen = max(((*chosen, r) for r in left), key=lambda a: objective(matrix, a, rule, eta))
    return chosen


@pytest.mark.parametrize(("rule", "eta"), [("top-k", 1.0), ("fl", 1.0), ("flmi", 0.5)])
def test_the_share_is_the_gain_over_the_mean_of_all_subsets(rule: str, eta: float) -> None:
    predicted = EXACT + RNG.normal(size=EXACT.shape).astype(np.float32)
    known = RNG.random(EXACT.shape) < 0.3
    mean = np.mean([objective(EXACT, a, rule, eta) for a in combinations(range(12), 3)])
    ours, best = greedy(np.where(known, EXACT, predicted), rule, eta), greedy(EXACT, rule, eta)
    gains = [objective(EXACT, a, rule, eta) - mean for a in (ours, best)]
    share, jaccard = selection_share(EXACT, predicted, rule, 0.25, known, eta=eta)
    assert set(ours) != set(best)
    assert share == pytest.approx(gains[0] / gains[1], abs=1e-5)
    assert jaccard == len(set(ours) & set(best)) / len(set(ours) | set(best))


@pytest.mark.parametrize("rule", ["top-k", "fl", "flmi"])
def test_a_perfect_prediction_loses_nothing_and_so_do_exact_values_in_its_place(rule: str) -> None:
    assert selection_share(EXACT, EXACT, rule, 0.25, NOTHING) == (pytest.approx(1), 1)
    wrong = np.zeros_like(EXACT)
    assert selection_share(EXACT, wrong, rule, 0.25, ~NOTHING) == (pytest.approx(1), 1)
    share, jaccard = selection_share(EXACT, -EXACT, rule, 0.25, NOTHING)
    assert share is not None and share < 0.5 and jaccard < 1


def test_top_k_takes_the_best_task() -> None:
    exact = np.zeros((4, 3), np.float32)
    exact[0, 2], exact[1, :2] = 1.0, 0.6
    one = selection_share(exact, exact, "top-k", 0.25, np.zeros(exact.shape, bool))
    wrong = np.zeros_like(exact)
    wrong[1] = 1.0
    two = selection_share(exact, wrong, "top-k", 0.25, np.zeros(exact.shape, bool), tasks=np.array([0, 0, 1]))
    assert one[0] == pytest.approx(1)
    # Scores by task: 1.0, 0.6, 0, 0; random gains 0.4, exact 1.0, the prediction 0.6.
    assert two == (pytest.approx((0.6 - 0.4) / (1.0 - 0.4)), 0)


def test_where_all_rows_are_alike_there_is_no_share() -> None:
    flat = np.ones((6, 2), np.float32)
    assert selection_share(flat, flat, "fl", 0.5, np.zeros((6, 2), bool))[0] is None


@pytest.mark.parametrize(("n", "k"), [(6, 1), (6, 3), (6, 6), (1, 1)])
def test_the_mean_maximum_is_that_of_all_subsets(n: int, k: int) -> None:
    x = np.sort(RNG.normal(size=n))
    wanted = np.mean([max(x[list(a)]) for a in combinations(range(n), k)])
    assert maximum_weights(n, k) @ x == pytest.approx(wanted)
    assert maximum_weights(n, k).sum() == pytest.approx(1)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="no study of the rule"):
        selection_share(EXACT, EXACT, "flcg", 0.2, NOTHING)
    with pytest.raises(ValueError, match="one shape"):
        selection_share(EXACT, EXACT[:3], "fl", 0.2, NOTHING)
