"""Why a pool row was chosen, or why not, under facility location: gains replayed on the stored matrix.

A gain is what a row adds to the objective beside the rows picked before it, in units of influence scaled to
0..1 by the extremes of the run's matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nncift_core.pipeline.explain_objective import MEMORY, Stored, coverage
from nncift_core.pipeline.explain_row import Found, named
from nncift_core.pipeline.explain_values import BEST, RowValues, target_rows
from nncift_core.selection.block_greedy import block_rows, first_gains
from nncift_core.selection.gains import row_gain
from nncift_core.selection.kernels import Float32, SimilarityRows
from nncift_core.selection.problem import Problem as Coverage
from nncift_core.selection.result import Float64, Int64

# Gains that differ by less than this share of the objective differ by rounding.
ROUNDING = 1e-5
NOBODY = -1


@dataclass(frozen=True, eq=False)
class Walk:
    """The picks once more, in their order, beside one row.

    gains [k]: of every pick when it was made; own [k + 1]: what the row would have added in place of every
    pick, and after all of them; cover [N]: how well every target row is covered in the end; by [N]: by which
    pick, or `NOBODY`: by `existing` data, or not at all.
    """

    gains: Float64
    own: Float64
    cover: Float32
    by: Int64


def walk(found: Coverage, row: int) -> Walk:
    """Candidates of `found` but the last are the picks in order; row: index of the candidate to compare."""
    picks, targets = found.rows.shape[0] - 1, found.rows.shape[1]
    values = found.rows.take(np.array([row]))[0]
    cover, by = found.cover.copy(), np.full(targets, NOBODY)
    gains, own = np.empty(picks), np.empty(picks + 1)
    size = block_rows(picks, targets, MEMORY) if picks else 1
    for start in range(0, picks, size):
        for at, pick in enumerate(found.rows.rows(start, min(start + size, picks)), start):
            own[at] = found.modular[row] + row_gain(values, cover)
            gains[at] = found.modular[at] + row_gain(pick, cover)
            better = pick > cover
            by[better] = at
            cover[better] = pick[better]
    own[picks] = found.modular[row] + row_gain(values, cover)
    return Walk(gains, own, cover, by)


def by_coverage(
    stored: Stored, row: Found, values: RowValues, ranks: dict[int, int]
) -> tuple[dict[str, Any], list[str]]:
    """Facility location: what the row adds, and notes on how far that can be trusted.

    Chosen: gain (at its pick, as stored), gain_again (computed anew), own_match (the part of the gain that no
    other row takes away: under `flmi`, eta times its best match; else None), share (of the objective),
    represents (target rows that it covers better than every other chosen row), replaced_by (the row of the
    best gain at that step but this one: as `named`, with gain and difference; rank says where it was picked,
    if it was; None for the last row of the pool), left_out (the same among rows that were never chosen).
    Not chosen: gain_at_end (beside all chosen rows), own_match, last_gain (of the last pick), nearest_step
    (rank of the pick that it came nearest to), gain_there, pick_gain_there, rise (by how much its gain would
    have to rise to be that pick), nearest_pick, covered (target rows that a chosen row covers at least as
    well), of_targets, targets (the target rows that it helps most: as `target_rows` with `RowValues.pair`,
    adds, and covered_by: the chosen row that covers it best, with its influence; None for existing data or
    nobody).
    """
    order = stored.order()
    if row.example_id in ranks:
        return _chosen(stored, row, order, ranks)
    return _rejected(stored, row, order, values, ranks)


def _chosen(
    stored: Stored, row: Found, order: Int64, ranks: dict[int, int]
) -> tuple[dict[str, Any], list[str]]:
    step = ranks[row.example_id] - 1
    found = coverage(stored)
    cover = found.cover.copy()
    _absorb(found.rows, order[:step], cover)
    gains = found.modular + first_gains(found.rows, cover, MEMORY)
    gained, stored_gains = float(gains[row.index]), stored.gains()
    objective = found.empty + float(stored_gains.sum())
    gains[order[: step + 1]] = -np.inf
    told: dict[str, Any] = {
        "gain": float(stored_gains[step]),
        "gain_again": gained,
        "own_match": _own_match(stored, found, row.index),
        "share": float(stored_gains[step]) / objective if objective else None,
        "represents": _represented(found, row.index, order),
        "replaced_by": _best_of(stored, gains, gained, ranks),
    }
    gains[order] = -np.inf
    told["left_out"] = _best_of(stored, gains, gained, ranks)
    notes = _notes(stored, abs(gained - told["gain"]) > ROUNDING * abs(objective))
    best = told["replaced_by"]
    if best is not None and best["difference"] < -ROUNDING * abs(objective):
        notes.append("the row named in its place would have gained more: the selection was approximate")
    return told, notes


def _own_match(stored: Stored, found: Coverage, row: int) -> float | None:
    """The part of a gain that no other row takes away: eta times the row's best match, under `flmi`."""
    return float(found.modular[row]) if "eta" in stored.rule.parameters else None


def _absorb(rows: SimilarityRows, picks: Int64, cover: Float32) -> None:
    """Raise cover [N] to what `picks` cover."""
    size = block_rows(max(1, len(picks)), rows.shape[1], MEMORY)
    for start in range(0, len(picks), size):
        np.maximum(cover, rows.take(picks[start : start + size]).max(axis=0), out=cover)


def _represented(found: Coverage, row: int, order: Int64) -> int:
    """Target rows that `row` covers better than all other picks do."""
    cover = found.cover.copy()
    _absorb(found.rows, order[order != row], cover)
    return int((found.rows.take(np.array([row]))[0] > cover).sum())


def _best_of(stored: Stored, gains: Float64, own: float, ranks: dict[int, int]) -> dict[str, Any] | None:
    best = int(np.argmax(gains))
    if gains[best] == -np.inf:
        return None
    gain = float(gains[best])
    return {**named(stored.problem.pool, [best], ranks)[0], "gain": gain, "difference": own - gain}


def _rejected(
    stored: Stored, row: Found, order: Int64, values: RowValues, ranks: dict[int, int]
) -> tuple[dict[str, Any], list[str]]:
    found = coverage(stored, np.append(order, row.index))
    own = found.rows.take(np.array([len(order)]))[0]
    seen = walk(found, len(order))
    missing = seen.gains - seen.own[:-1]
    near = int(np.argmin(missing))
    told = {
        "gain_at_end": float(seen.own[-1]),
        "own_match": _own_match(stored, found, len(order)),
        "last_gain": float(seen.gains[-1]),
        "nearest_step": near + 1,
        "gain_there": float(seen.own[near]),
        "pick_gain_there": float(seen.gains[near]),
        "rise": max(0.0, float(missing[near])),
        "nearest_pick": named(stored.problem.pool, order[[near]], ranks)[0],
        "covered": int((seen.cover >= own).sum()),
        "of_targets": len(own),
        "targets": _rivals(stored, values, seen, own, order, ranks),
    }
    stored_gains = stored.gains()
    moved = float(np.abs(seen.gains - stored_gains).max()) > ROUNDING * abs(float(stored_gains.sum()))
    notes = _notes(stored, moved)
    if missing[near] < -ROUNDING * abs(float(stored_gains.sum())):
        notes.append("it would have gained more than a pick that was made: the selection was approximate")
    return told, notes


def _rivals(
    stored: Stored, values: RowValues, seen: Walk, own: Float32, order: Int64, ranks: dict[int, int]
) -> list[dict[str, Any]]:
    """The targets that the row helps most, and who covers them."""
    best = values.best(np.arange(len(own)))[:BEST]
    scaling, told = stored.scaling, []
    for t, about in zip(best.tolist(), target_rows(stored, best), strict=True):
        rival = None
        if seen.by[t] != NOBODY:
            rival = named(stored.problem.pool, order[[seen.by[t]]], ranks)[0]
            span = scaling.maximum - scaling.minimum
            rival["influence"] = scaling.minimum + float(seen.cover[t]) * span
        adds = max(0.0, float(own[t] - seen.cover[t]))
        told.append({**about, **values.pair(t), "adds": adds, "covered_by": rival})
    return told


def _notes(stored: Stored, moved: bool) -> list[str]:
    notes = []
    mode = stored.facts.get("selection_mode")
    if mode not in (None, "exact"):
        notes.append(f"the rule was maximised approximately ({mode}): not every row was looked at every step")
    if moved:
        notes.append(
            "gains computed now differ from those of the run: values were measured after it chose, and they "
            "are shown as they are known now"
        )
    return notes
