"""The rows that a prune run hands back: those that it recommends, or those that the config asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nncift_core.pruning.outcome import Scored
from nncift_core.pruning.problem import GIVEN, LabelSet, PruneProblem
from nncift_core.pruning.recommend import Recommendation
from nncift_core.pruning.sampling import Kept
from nncift_core.pruning.studies import Point, kept_rows
from nncift_core.scores.catalogue import CATALOGUE, shown_name
from nncift_core.scores.compute import difficulty
from nncift_core.store.files import publish, void


def chosen_point(problem: PruneProblem, advice: Recommendation) -> Point | None:
    """The point whose rows are written: of `[subset]`, else the recommended one; None where neither is."""
    config = problem.config
    if config.subset is not None:
        s = config.subset
        variant = CATALOGUE[s.score].variants[0]
        return Point("curve", GIVEN, 0, s.score, variant, "cut", s.pruned_end, s.prune)
    if advice.verdict != "prune":
        return None
    mode = config.training.mode
    name = next(n for n in CATALOGUE if shown_name(n, mode) == advice.score)
    return Point("curve", GIVEN, 0, name, advice.variant, advice.sampling, advice.pruned_end, advice.pruned)


def kept_of(problem: PruneProblem, point: Point, scored: Mapping[LabelSet, Scored]) -> Kept:
    """The rows of a point."""
    return kept_rows(problem, point, {labels: s.scores for labels, s in scored.items()})


def selection_rows(problem: PruneProblem, point: Point, kept: Kept, scored: Scored) -> list[dict[str, Any]]:
    """Rows of the view `selection`, without run_id: easiest first where the hard end goes, else hardest."""
    values = scored.scores[point.score, point.variant]
    hard = difficulty(point.score, values)
    order = sorted(
        kept.index.tolist(), key=lambda i: (hard[i] if point.pruned_end == "hard" else -hard[i], i)
    )
    ids = problem.train.example_ids
    return [
        {"rank": rank, "train_id": int(ids[i]), "gain": None, "score": float(values[i])}
        for rank, i in enumerate(order, 1)
    ]


def write_kept(problem: PruneProblem, run_id: str, kept: Kept, key: str, parents: Sequence[str]) -> str:
    """Write the kept rows in the shape of the user's file, in its order; returns the relative path."""
    records = problem.train.records()
    lines = [json.dumps(json.loads(records[i]), ensure_ascii=False) for i in kept.index.tolist()]
    path = problem.ws.subset_file(run_id)
    text = "".join(line + "\n" for line in lines)
    publish(
        problem.ws.root, path, lambda p: void(p.write_text(text, encoding="utf-8")), kind="subset", key=key,
        rows=len(lines), producer="prune", parents=tuple(parents),
    )  # fmt: skip
    return problem.ws.relative(path)
