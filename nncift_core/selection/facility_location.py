"""Facility location, its mutual information (variant form) and its conditional gain, by lazy greedy.

Matrices are [represented, candidate]: similarity[i, a] says how well candidate a represents item
i. Candidates are rows of the pool; influence stored as [pool, column] is passed as its transpose
`.T`, which costs no copy, memory-mapped or not. Any other layout is copied once into that one.

Readings. Equal gains go to the lowest candidate index, and `Selection.ties` counts such steps.
Values may be negative: f(empty) = 0 and the maximum is not clamped, unless `floor` says so. With
values >= 0 this is the textbook objective; `shift_to_non_negative` makes raw influence so.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from nncift_core.selection.lazy_greedy import run_lazy_greedy
from nncift_core.selection.result import (
    Float64,
    Floating,
    Selection,
    as_floating,
    check_budget,
    finite_range,
)

_AXES = ("candidate", "represented")


def facility_location(similarity: npt.ArrayLike, budget: int, *, floor: float | None = None) -> Selection:
    """Greedy maximum of f(A) = sum_i max_{a in A} s(i, a), f(empty) = 0 (methods.md 1.5).

    similarity: [represented, candidate], float32 or float64 (kept; see `as_floating` for others).
    budget: picks, 1..candidates. floor: maximise sum_i max(max_{a in A} s(i, a), floor) instead,
    gains counted from its value on the empty set; 0 is what submodlib computes. Without it the
    first gain, sum_i s(i, a), may be negative.
    Raises ValueError for a wrong shape, a value that is not finite (named) or a wrong budget.
    """
    rows, low = _candidate_rows(similarity)
    return _select(rows, budget, low=low, floor=floor)


def facility_location_mutual_information(
    similarity: npt.ArrayLike, budget: int, eta: float = 1.0
) -> Selection:
    """Greedy maximum of sum_j max_{a in A} s(a, j) + eta * sum_{a in A} max_j s(a, j).

    The variant form (methods.md 1.5; FacilityLocationVariantMutualInformation in submodlib).
    similarity: [represented, candidate], the represented being the N targets j. eta >= 0 weighs
    each pick's own best match; with eta = 0 little is left to gain after about N picks.
    Raises ValueError as `facility_location` does, and for a negative or infinite eta.
    """
    check_weight("eta", eta)
    rows, low = _candidate_rows(similarity)
    own = eta * rows.max(axis=1).astype(np.float64)
    return _select(rows, budget, low=low, modular=own)


def facility_location_conditional_gain(
    similarity: npt.ArrayLike, existing: npt.ArrayLike, budget: int, nu: float = 1.0
) -> Selection:
    """Greedy maximum of sum_i max(max_{a in A} s(i, a) - nu * max_{p in P} s(i, p), 0).

    similarity: [represented, candidate]; existing: [represented, existing], the same items against
    the data P already there, in the same units (scale both by one `NonNegative.of(both)`).
    nu >= 0: how much of what P covers counts as covered. f(empty) = 0.
    Raises ValueError as `facility_location` does, and for a wrong `existing` or nu.
    """
    check_weight("nu", nu)
    rows, low = _candidate_rows(similarity)
    covered = nu * _best_match(existing, represented=rows.shape[1])
    return _select(rows, budget, low=low, cover=covered)


def _select(
    rows: Floating,
    budget: int,
    *,
    low: float,
    floor: float | None = None,
    modular: npt.ArrayLike = 0.0,
    cover: npt.ArrayLike | None = None,
) -> Selection:
    """Run lazy greedy from `cover`, else from `floor`, else from the empty set (unclamped)."""
    budget = check_budget(budget, len(rows))
    if floor is not None and not math.isfinite(floor):
        raise ValueError(f"floor is {floor}, but must be finite")
    # With values >= 0 the empty set behaves as cover 0, whose first gains stay valid bounds.
    signed = cover is None and floor is None and low < 0
    if cover is None:
        cover = -math.inf if signed else (floor or 0.0)
    start = np.full(rows.shape[1], cover, rows.dtype)
    order, gains, ties = run_lazy_greedy(rows, start, modular, budget, signed=signed)
    # The gains count from the empty set, whose value is 0 unless a floor lifts it.
    objective = float(gains.sum()) + (floor or 0.0) * rows.shape[1]
    return Selection(order, gains, ties, int(np.count_nonzero(gains > 0)), objective)


def _candidate_rows(similarity: npt.ArrayLike) -> tuple[Floating, float]:
    """similarity.T, [candidate, represented], C-contiguous and finite; and its smallest value."""
    matrix = as_floating(similarity, "similarity", ("represented", "candidate"))
    rows = np.ascontiguousarray(matrix.T)
    low, _ = finite_range(rows, "similarity", _AXES)
    return rows, low


def _best_match(existing: npt.ArrayLike, represented: int) -> Float64:
    """max_{p in P} s(i, p), float64 [represented]; ValueError if not finite."""
    axes = ("represented", "existing")
    matrix = as_floating(existing, "existing", axes)
    if len(matrix) != represented:
        raise ValueError(
            f"existing has {len(matrix)} represented rows, but similarity has {represented}: "
            "both must describe the same items"
        )
    finite_range(matrix, "existing", axes)
    best: Float64 = matrix.max(axis=1).astype(np.float64)
    return best


def check_weight(name: str, weight: float) -> None:
    """Raises ValueError, naming the parameter `name`, unless `weight` is a finite number >= 0."""
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"{name} is {weight}, but must be a finite number >= 0")
