"""What each selection rule needs from the rest of the run (design decision 6).

A table and nothing else: whoever runs a rule reads here which arrays to fetch, and calls `select`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from nncift_core.selection.facility_location import (
    facility_location,
    facility_location_conditional_gain,
    facility_location_mutual_information,
)
from nncift_core.selection.result import Selection
from nncift_core.selection.top_k import top_k

RuleName = Literal["top-k", "fl", "flmi", "flcg"]


@dataclass(frozen=True)
class Rule:
    """One selection rule.

    select: the library call.
    reads: "scores" [candidates], or "matrix": influence [represented, candidate], that is, the
        stored matrix [pool, columns] transposed.
    non_negative: whether raw influence goes through `NonNegative` first.
    existing: whether a second matrix [represented, existing] is needed (`selection.existing`);
        both matrices then share one `NonNegative.of(similarity, existing)`.
    parameters: keys of `[selection]` handed on to `select` under the same name.
    objective: what is maximised.
    """

    select: Callable[..., Selection]
    reads: Literal["scores", "matrix"]
    objective: str
    non_negative: bool = True
    existing: bool = False
    parameters: tuple[str, ...] = ()


RULES: Mapping[RuleName, Rule] = MappingProxyType(
    {
        "top-k": Rule(top_k, "scores", "sum of the scores of A", non_negative=False),
        "fl": Rule(facility_location, "matrix", "sum_i max_{a in A} s(i, a)"),
        "flmi": Rule(
            facility_location_mutual_information,
            "matrix",
            "sum_j max_{a in A} s(a, j) + eta * sum_{a in A} max_j s(a, j)",
            parameters=("eta",),
        ),
        "flcg": Rule(
            facility_location_conditional_gain,
            "matrix",
            "sum_i max(max_{a in A} s(i, a) - nu * max_{p in P} s(i, p), 0)",
            existing=True,
            parameters=("nu",),
        ),
    }
)
