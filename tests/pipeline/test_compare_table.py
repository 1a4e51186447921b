"""The rows of a comparison's table: pairing by seed, what is kept, and why it cannot be said."""

from __future__ import annotations

from typing import Any

import numpy as np

from nncift_core.evaluation.intervals import ONE_SEED
from nncift_core.pipeline.compare import keep_gain, kept_note
from nncift_core.pipeline.downstream import Cell
from nncift_core.pipeline.evaluation_tables import alike
from nncift_core.pipeline.methods import Method
from nncift_core.pipeline.scored import Scored
from nncift_core.pipeline.trials import Mode, Trial

EXACT, ESTIMATED = Method("less", "exact"), Method("less", "estimated")


def scored(subset: str, seed: int | None, mode: Mode = "finetune") -> Scored:
    return Scored(Trial(Cell(subset, seed, np.empty(0, np.int64), "k"), mode), {}, [], ())


def seeds(side: list[Scored]) -> list[int | None]:
    return [s.trial.cell.seed for s in side]


def test_sides_are_paired_by_the_seeds_that_both_still_have() -> None:
    ours, theirs = [scored("a", s) for s in (0, 2, 1)], [scored("b", s) for s in (1, 2)]
    assert [seeds(side) for side in alike(ours, theirs, "finetune")] == [[2, 1], [2, 1]]
    assert [seeds(side) for side in alike(ours, [scored("b", 7)], "finetune")] == [[], []]


def test_what_nothing_was_trained_for_stays_whole() -> None:
    ours = [scored("a", s) for s in (0, 1)]
    assert [seeds(s) for s in alike(ours, [scored("base", None, "base")], "finetune")] == [[0, 1], [None]]
    shown = [scored("a", 0, "icl")], [scored("random", s, "icl") for s in (0, 1)]
    assert [seeds(s) for s in alike(*shown, "icl")] == [[0], [0, 1]]


def row(method: str, gain: float | None, verdict: str | None) -> dict[str, Any]:
    return {"method": method, "task": "all", "gain": gain, "verdict": verdict, "kept": None}


def test_a_share_is_kept_only_of_a_gain_beyond_its_interval() -> None:
    rows = [row("less, exact", 0.4, "better"), row("less, estimated", 0.3, "no clear difference")]
    keep_gain(rows, [EXACT, ESTIMATED])
    assert rows[1]["kept"] == 0.3 / 0.4 and rows[0]["kept"] is None
    assert kept_note(rows, [EXACT, ESTIMATED]) == ""
    unsure = [row("less, exact", 0.4, "no clear difference"), row("less, estimated", 0.3, "better")]
    keep_gain(unsure, [EXACT, ESTIMATED])
    assert unsure[1]["kept"] is None


def test_why_nothing_is_kept_is_told_for_what_it_is() -> None:
    both = [EXACT, ESTIMATED]
    assert "no exact subset" in kept_note([row("less, exact", 0.1, "worse")], both)
    assert "no random rows" in kept_note([row("less, exact", None, None)], both)
    assert "one seed" in kept_note([row("less, exact", 0.1, ONE_SEED)], both)
    assert "no method has exact values" in kept_note([row("less, estimated", 0.1, "better")], [ESTIMATED])
    assert kept_note([row("less, exact", 0.1, "worse")], [EXACT]) == ""
