"""The objectives of the facility location family as one: a running maximum plus a modular term."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from nncift_core.selection.block_greedy import best_matches
from nncift_core.selection.facility_location import check_weight
from nncift_core.selection.kernels import DenseRows, Float32, SimilarityRows
from nncift_core.selection.result import Float64, Int64, check_budget

Objective = Literal["fl", "flmi", "flcg"]


@dataclass(frozen=True, eq=False)
class Problem:
    """Maximise sum_i max(cover[i], max_{a in A} s(i, a)) + sum_{a in A} modular[a] over |A| = budget.

    cover float32 [represented], modular float64 [candidates]; empty: the objective's value at the empty set.
    """

    rows: SimilarityRows
    cover: Float32
    modular: Float64
    budget: int
    empty: float

    def part(self, candidates: Int64, represented: Int64, budget: int) -> Problem:
        """The same over some candidates and some items."""
        share = len(represented) / len(self.cover)
        # Picks shrink with the candidates, covered items with the items: keep the two terms' weights.
        weight = share * len(self.modular) / len(candidates)
        return Problem(
            self.rows.part(candidates, represented),
            self.cover[represented],
            self.modular[candidates] * weight,
            budget,
            self.empty * share,
        )


def as_rows(similarity: SimilarityRows | npt.ArrayLike) -> SimilarityRows:
    """`similarity` itself, or an array [represented, candidate] behind the same contract."""
    return similarity if isinstance(similarity, SimilarityRows) else DenseRows(similarity)


def as_problem(
    rows: SimilarityRows,
    budget: int,
    objective: Objective,
    eta: float | None,
    existing: SimilarityRows | npt.ArrayLike | None,
    nu: float | None,
    floor: float,
    memory: int,
) -> Problem:
    """Check the arguments and turn the objective into cover and modular terms."""
    candidates, represented = rows.shape
    budget = check_budget(budget, candidates)
    if objective not in get_args(Objective):
        raise ValueError(f"objective is {objective!r}, but must be fl, flmi or flcg")
    only = {"eta": ("flmi", eta), "existing": ("flcg", existing), "nu": ("flcg", nu)}
    for name, (owner, value) in only.items():
        if value is not None and objective != owner:
            raise ValueError(f"{name} belongs to objective {owner!r}: leave it out with {objective!r}")
    if not math.isfinite(floor):
        raise ValueError(f"floor is {floor}, but must be finite")
    cover = np.full(represented, floor, np.float32)
    modular = np.zeros(candidates)
    if objective == "flmi":
        eta = 1.0 if eta is None else eta
        check_weight("eta", eta)
        modular = eta * best_matches(rows, memory)
    if objective == "flcg":
        if existing is None:
            raise ValueError("existing is missing: objective 'flcg' needs the similarity to what is there")
        if floor != 0:
            raise ValueError(
                f"floor is {floor}, but 'flcg' has its own, nu * the existing cover: leave it out"
            )
        nu = 1.0 if nu is None else nu
        check_weight("nu", nu)
        cover = (nu * _cover_of(as_rows(existing), represented, memory)).astype(np.float32)
    return Problem(rows, cover, modular, budget, floor * represented)


def _cover_of(existing: SimilarityRows, represented: int, memory: int) -> Float32:
    """max_{p in P} s(i, p), float32 [represented], by blocks."""
    count, items = existing.shape
    if items != represented:
        raise ValueError(
            f"existing has {items} represented rows, but similarity has {represented}: "
            "both must describe the same items"
        )
    cover = np.full(items, -np.inf, np.float32)
    size = max(1, min(memory, 1 << 28) // (4 * items))
    for a in range(0, count, size):
        np.maximum(cover, existing.rows(a, min(a + size, count)).max(axis=0), out=cover)
    return cover
