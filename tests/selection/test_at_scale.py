"""One call for every mode and objective: exact equals the plain functions, others say how far off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selection.kernel_cases import embeddings, sixteenths, tiles, vectors

from nncift_core.selection import (
    DenseRows,
    EmbeddingRows,
    ScaleOptions,
    facility_location,
    facility_location_at_scale,
    facility_location_conditional_gain,
    facility_location_mutual_information,
)
from nncift_core.selection.kernels import materialise

ORACLE = Path(__file__).parents[1] / "data" / "oracles" / "facility_location.npz"
POOL = embeddings(300)
S = materialise(POOL).T
TARGETS = EmbeddingRows(vectors(300), vectors(150, seed=1))
K = materialise(TARGETS).T
EXISTING = EmbeddingRows(vectors(9, seed=2), vectors(300))
P = materialise(EXISTING).T
SMALL = ScaleOptions(memory=1 << 20, neighbours=40, parts=3)


def arguments(objective: str) -> tuple[Any, dict[str, Any], Any]:
    """Kernel and keywords of the call at scale, and the plain function's selection of 60."""
    return {
        "fl": (POOL, {}, facility_location(S, 60)),
        "flmi": (TARGETS, {"eta": 0.3}, facility_location_mutual_information(K, 60, 0.3)),
        "flcg": (
            POOL,
            {"existing": EXISTING, "nu": 0.8},
            facility_location_conditional_gain(S, P, 60, 0.8),
        ),
    }[objective]


def value(objective: str, order: np.ndarray) -> float:
    s = (K if objective == "flmi" else S).astype(np.float64)
    best = s[:, order].max(axis=1)
    if objective == "flmi":
        return float(best.sum() + 0.3 * s.max(axis=0)[order].sum())
    return float(np.maximum(best - 0.8 * P.max(axis=1), 0).sum() if objective == "flcg" else best.sum())


@pytest.mark.parametrize("objective", ["fl", "flmi", "flcg"])
@pytest.mark.parametrize("how", [{}, {"mode": "exact"}, {"device": "cpu"}, {"dense": True}])
def test_exact_equals_the_plain_function(objective: Any, how: dict[str, Any]) -> None:
    kernel, keywords, plain = arguments(objective)
    how = dict(how)
    if how.pop("dense", False):
        kernel = K if objective == "flmi" else S
        keywords = {**keywords, **({"existing": P} if objective == "flcg" else {})}
    selection = facility_location_at_scale(kernel, 60, objective=objective, **keywords, **how)
    assert (selection.mode, selection.gap) == ("exact", None)
    assert selection.order.tolist() == plain.order.tolist()
    assert selection.gains == pytest.approx(plain.gains, abs=1e-4)
    assert selection.objective == pytest.approx(plain.objective, abs=1e-3)
    assert plain.objective == pytest.approx(value(objective, plain.order), abs=1e-3)


@pytest.mark.parametrize("objective", ["fl", "flmi", "flcg"])
@pytest.mark.parametrize("mode", ["sparse", "stochastic", "partitioned"])
def test_approximations_report_their_true_objective_and_gap(mode: Any, objective: Any) -> None:
    kernel, keywords, plain = arguments(objective)
    selection = facility_location_at_scale(
        kernel, 60, objective=objective, mode=mode, options=SMALL, **keywords
    )
    again = facility_location_at_scale(kernel, 60, objective=objective, mode=mode, options=SMALL, **keywords)
    assert selection.mode == mode
    assert selection.order.tolist() == again.order.tolist()
    assert len(set(selection.order.tolist())) == 60
    assert selection.objective == pytest.approx(value(objective, selection.order), abs=1e-3)
    assert selection.gains.sum() == pytest.approx(selection.objective, abs=1e-3)
    # The subsample is the whole pool here, so the gap is that of the call itself.
    assert selection.gap == pytest.approx(1 - selection.objective / plain.objective, abs=1e-5)
    assert selection.gap < 0.1


def test_gap_is_measured_on_a_subsample_or_not_at_all() -> None:
    options = ScaleOptions(gap_sample=100, neighbours=20)
    selection = facility_location_at_scale(POOL, 60, mode="sparse", options=options)
    assert selection.gap is not None and -0.02 < selection.gap < 0.1
    options = ScaleOptions(gap_sample=0, neighbours=20)
    assert facility_location_at_scale(POOL, 60, mode="sparse", options=options).gap is None


@pytest.mark.parametrize("uncovered", ["least", "zero"])
def test_sparse_with_all_neighbours_is_exact(uncovered: Any) -> None:
    s = sixteenths(40, 25)
    options = ScaleOptions(neighbours=40, uncovered=uncovered)
    selection = facility_location_at_scale(s, 40, mode="sparse", options=options)
    plain = facility_location(s, 40)
    assert selection.order.tolist() == plain.order.tolist()
    assert (selection.gap, selection.objective, selection.ties) == (0.0, plain.objective, plain.ties)


def test_exact_by_blocks_where_the_kernel_does_not_fit() -> None:
    kernel = embeddings(700)
    selection = facility_location_at_scale(kernel, 70, mode="exact", options=ScaleOptions(memory=1 << 20))
    assert selection.order.tolist() == facility_location(materialise(kernel).T, 70).order.tolist()


def test_auto_says_which_mode_it_took() -> None:
    kernel = embeddings(700)
    small = {"memory": 1 << 20, "neighbours": 20}
    assert facility_location_at_scale(kernel, 70).mode == "exact"
    assert facility_location_at_scale(kernel, 70, options=ScaleOptions(**small)).mode == "sparse"
    assert facility_location_at_scale(kernel, 60, options=ScaleOptions(**small)).mode == "stochastic"
    zero = ScaleOptions(**small, uncovered="zero")
    assert facility_location_at_scale(kernel, 70, floor=-0.5, options=zero).mode == "stochastic"


def test_floor_counts_in_the_objective() -> None:
    with np.load(ORACLE, allow_pickle=False) as z:
        s, order = z["A60"], z["fl_asym60_floor0_naive_order"]
    at_scale = facility_location_at_scale(s, len(order), floor=0.0)
    assert at_scale.order.tolist() == order.tolist()
    for floor in (0.0, -0.25):
        selection = facility_location_at_scale(tiles(s.copy()), 10, floor=floor)
        expected = np.maximum(s[:, selection.order].astype(np.float64).max(axis=1), floor).sum()
        assert selection.objective == pytest.approx(expected, abs=1e-4)
        assert facility_location(s, 10, floor=floor).objective == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"objective": "fli"}, "objective is 'fli', but must be fl, flmi or flcg"),
        ({"mode": "fast"}, "mode is 'fast', but must be auto, exact, sparse, stochastic, partitioned"),
        ({"eta": 1.0}, "eta belongs to objective 'flmi': leave it out with 'fl'"),
        ({"nu": 1.0, "objective": "flmi"}, "nu belongs to objective 'flcg': leave it out with 'flmi'"),
        ({"existing": P}, "existing belongs to objective 'flcg'"),
        ({"objective": "flcg"}, "existing is missing"),
        ({"objective": "flcg", "existing": P, "floor": 0.1}, "'flcg' has its own.*leave it out"),
        ({"objective": "flcg", "existing": P[:5]}, "existing has 5 represented rows, but similarity has 300"),
        ({"objective": "flcg", "existing": P, "nu": -1.0}, "nu is -1.0, but must be a finite number >= 0"),
        ({"floor": float("nan")}, "floor is nan, but must be finite"),
        (
            {"mode": "sparse", "floor": -1.0, "options": ScaleOptions(uncovered="zero")},
            "uncovered 'zero' needs a floor.*take uncovered 'least', or shift",
        ),
        ({"mode": "sparse", "options": ScaleOptions(neighbours=301)}, "neighbours is 301, but there are 300"),
        (
            {"mode": "partitioned", "options": ScaleOptions(parts=301)},
            r"parts is 301, but must lie in 1\.\.300",
        ),
        ({"mode": "sparse", "device": "cpu"}, "device computes exact greedy, not mode 'sparse'"),
    ],
)
def test_what_does_not_fit_together_is_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        facility_location_at_scale(POOL, 5, **keywords)
    with pytest.raises(ValueError, match=r"budget is 301, but must lie in 1\.\.300"):
        facility_location_at_scale(DenseRows(S), 301)


@pytest.mark.parametrize(
    "option, message",
    [
        ({"memory": 5}, "memory is 5, but must be at least 1 MiB"),
        ({"epsilon": 1.0}, "epsilon is 1.0, but must be between 0 and 1"),
        ({"surplus": 0.5}, "surplus is 0.5, but must be a finite number >= 1"),
        ({"parts": 0}, "parts is 0, but must be at least 1, or None"),
        ({"neighbours": 0}, "neighbours is 0, but must be at least 1"),
    ],
)
def test_wrong_options_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScaleOptions(**option)
