"""What a change of subset did to the objective: both subsets under the matrix and the rule of each run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.errors import NnciftError
from nncift_core.pipeline.diff import Chosen
from nncift_core.pipeline.explain_objective import Stored, objective_of
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]

# Objectives that differ by less than this share differ by rounding.
ROUNDING = 1e-4
_SIDES = ("before", "after")


def objective_change(
    ws: Workspace, before: Chosen, after: Chosen, results: list[dict[str, Any]]
) -> dict[str, Any]:
    """The objective of both subsets under each run, JSON-ready.

    Keys: comparable (False for runs of other functions: each subset is then judged by its own run alone);
    rows (per side: used, left_out: chosen rows that the other pool lacks); targets (before, after, common);
    under (per run: run, run_id, rule, objective in words, recorded: what the run said of its own subset;
    before and after: the objective of the two subsets, change, relative: change / |before|; None where it
    cannot be told); notes (restrictions, what could not be told, and why).
    """
    functions = [result["matrix"]["function"] for result in results]
    comparable = functions[0] == functions[1]
    told: dict[str, Any] = {"comparable": comparable, "rows": {}, "targets": {}, "under": [], "notes": []}
    if not comparable:
        told["notes"].append(
            f"values of {functions[0]} and {functions[1]} are not comparable: each subset is judged by its "
            "own run alone"
        )
    opened: list[Stored | None] = []
    for chosen in (before, after):
        try:
            opened.append(Stored.open(ws, chosen.run_id))
        except NnciftError as e:
            told["notes"].append(f"the objective under run {chosen.run_id} cannot be told: {e}")
            opened.append(None)
    shared = _shared(told, (before, after), opened) if comparable else _Shared.apart((before, after))
    for side, chosen, stored, result in zip(_SIDES, (before, after), opened, results, strict=True):
        told["under"].append(_under(side, chosen, stored, result, shared, told["notes"]))
    return told


@dataclass(frozen=True, eq=False)
class _Shared:
    """What is judged. rows: example ids of each subset; targets: ids that both runs have, None for all of a
    run's own; crossed: whether a run judges the other's subset, too."""

    rows: dict[str, list[int]]
    targets: Int64 | None
    crossed: bool

    @classmethod
    def apart(cls, chosen: tuple[Chosen, Chosen]) -> _Shared:
        """Each subset whole, by its own run."""
        return cls({side: list(c.rank) for side, c in zip(_SIDES, chosen, strict=True)}, None, False)

    @property
    def restricted(self) -> bool:
        """Whether some target rows are left out."""
        return self.targets is not None


def _shared(told: dict[str, Any], chosen: tuple[Chosen, Chosen], opened: list[Stored | None]) -> _Shared:
    """Restrict both subsets to rows that both pools have, and both matrices to common target rows."""
    rows = {}
    for side, own, other in zip(_SIDES, chosen, reversed(chosen), strict=True):
        rows[side] = [i for i in own.rank if i in other.score]
        left_out = len(own.rank) - len(rows[side])
        told["rows"][side] = {"used": len(rows[side]), "left_out": left_out}
        if left_out:
            told["notes"].append(
                f"{left_out:,} of {len(own.rank):,} rows of the subset {side} are not in both pools: left out"
            )
    if len(rows["before"]) != len(rows["after"]):
        told["notes"].append(
            f"the subsets count {len(rows['before']):,} and {len(rows['after']):,} rows: the objective grows "
            "with their number"
        )
    targets = None
    if opened[0] is not None and opened[1] is not None:
        ids = [_target_ids(stored) for stored in opened if stored is not None]
        common = np.intersect1d(ids[0], ids[1])
        told["targets"] = dict(zip((*_SIDES, "common"), map(len, (*ids, common)), strict=True))
        if not len(common) == len(ids[0]) == len(ids[1]):
            targets = common
            told["notes"].append(
                f"judged on the {len(common):,} target rows that both runs have, of {len(ids[0]):,} and "
                f"{len(ids[1]):,}"
            )
    return _Shared(rows, targets, True)


def _target_ids(stored: Stored) -> Int64:
    """Example ids of the target rows, in order; none of a pointwise function."""
    if stored.problem.config.pointwise:
        return np.empty(0, np.int64)
    return np.concatenate([d.example_ids for d in stored.problem.targets])


def _under(
    side: str,
    chosen: Chosen,
    stored: Stored | None,
    result: dict[str, Any],
    shared: _Shared,
    notes: list[str],
) -> dict[str, Any]:
    """Both subsets by one run; what cannot be told goes to the notes."""
    told: dict[str, Any] = {
        "run": side,
        "run_id": chosen.run_id,
        "rule": chosen.rule,
        "objective": stored.rule.objective if stored else None,
        "recorded": result["facts"].get("objective"),
        "before": None,
        "after": None,
        "change": None,
        "relative": None,
    }
    if stored is None:
        return told
    try:
        for which in _SIDES if shared.crossed else (side,):
            told[which] = _value(stored, shared.rows[which], shared.targets)
    except NnciftError as e:
        notes.append(f"the objective under run {chosen.run_id} cannot be told: {e}")
        return told
    if told["before"] is not None and told["after"] is not None:
        told["change"] = told["after"] - told["before"]
        told["relative"] = told["change"] / abs(told["before"]) if told["before"] else None
    whole = not shared.restricted and len(shared.rows[side]) == len(chosen.rank)
    recorded = told["recorded"]
    if whole and recorded is not None and abs(told[side] - recorded) > ROUNDING * abs(recorded):
        notes.append(
            f"run {chosen.run_id} recorded the objective {recorded:.6g} of its own subset: values were "
            "measured since, and they are used here as they are known now"
        )
    return told


def _value(stored: Stored, examples: list[int], targets: Int64 | None) -> float | None:
    """None where no row or no target row is left."""
    if not examples or (targets is not None and not len(targets)):
        return None
    place = {e: k for k, e in enumerate(stored.problem.pool.example_ids.tolist())}
    some = None if targets is None else np.flatnonzero(np.isin(_target_ids(stored), targets))
    return objective_of(stored, np.array([place[e] for e in examples], np.int64), some)
