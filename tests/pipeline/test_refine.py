"""Exact values near the edge of the subset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline.priced import COLUMNS, ROWS, Priced, config, problem, register

from nncift_core.pipeline import refine
from nncift_core.pipeline.exact import compute_exact, plan_exact
from nncift_core.pipeline.problem import Problem
from nncift_core.pipeline.refine import boundary_rows, moved, plan_refine

SCORES = np.array([0.9, 0.1, 0.55, 0.5, 0.46, -1.0, 0.3], np.float32)
ORDER = np.array([0, 2, 3])
NONE = np.zeros(7, bool)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    register(monkeypatch)

    def make(**settings: Any) -> Problem:
        given = {"labels": "block", "refine_pairs": 120, "refine_rounds": 2, **settings}
        p = problem(tmp_path, config(**given))
        for shard in plan_exact(p).shards:
            compute_exact(p, Priced(), shard)
        return p

    return make


def choice(p: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores by position, the best third chosen, and no row exact."""
    scores = np.linspace(1, 0, len(p.pool.content_ids), dtype=np.float32)
    return scores, np.arange(len(scores) // 3), np.zeros(len(scores), bool)


def test_rows_nearest_the_edge_come_first() -> None:
    assert boundary_rows(SCORES, 1.0, 7, NONE, ORDER).tolist() == [3, 4, 2, 6, 0, 1, 5]
    assert boundary_rows(SCORES, 0.2, 3, NONE, ORDER).tolist() == [3, 4, 2]
    exact = NONE.copy()
    exact[[3, 2]] = True
    assert boundary_rows(SCORES, 1.0, 2, exact, ORDER).tolist() == [4, 6]


def test_an_uncertain_score_counts_as_near_and_a_certain_one_as_far() -> None:
    std = np.full(7, 0.1)
    std[5] = 100.0
    assert boundary_rows(SCORES, std, 2, NONE, ORDER).tolist() == [3, 5]
    std[:] = 0.0
    assert boundary_rows(SCORES, std, 1, NONE, ORDER).tolist() == [3], "on the edge itself"


def test_there_is_no_edge_when_none_or_all_are_chosen() -> None:
    for order in (ORDER[:0], np.arange(7)):
        assert boundary_rows(SCORES, 1.0, 7, NONE, order).tolist() == []


def test_a_round_buys_whole_rows_and_spends_what_is_left_on_the_next(made: Any) -> None:
    p = made()
    scores, order, exact = choice(p)
    plan = plan_exact(p)
    shards = plan_refine(p, plan, scores, order, exact, 120)
    assert {s.purpose for s in shards} == {"refine"} and {s.layout for s in shards} == {"tile"}
    assert sum(s.missing for s in shards) == 60, "ceil(120 / 2)"
    *whole, part = shards
    bought = [r for s in whole for r in s.rows]
    contents = p.pool.content_ids
    edge = len(order) - 1
    ranked = contents[np.argsort(np.abs(np.arange(ROWS) - edge), kind="stable")].tolist()
    assert bought == ranked[: len(bought)] and part.rows == (ranked[len(bought)],)
    assert all(set(s.columns) == set(p.columns.tolist()) for s in whole)
    assert part.missing == part.pairs == len(part.columns) < COLUMNS
    before = p.exact_store.coverage(p.rows, p.columns).sum()
    assert sum(compute_exact(p, Priced(), s) for s in shards) == 60
    assert p.exact_store.coverage(p.rows, p.columns).sum() == before + 60
    assert p.exact_store.coverage(np.array(bought), p.columns).all()


def test_rounds_stay_within_what_is_left_and_go_on_where_the_last_one_ended(made: Any) -> None:
    p = made()
    scores, order, exact = choice(p)
    bought = 0
    for left, spent in ((120, 60), (60, 60), (7, 7), (0, 0)):
        shards = plan_refine(p, plan_exact(p), scores, order, exact, left)
        assert sum(s.missing for s in shards) == spent
        bought += sum(compute_exact(p, Priced(), s) for s in shards)
    assert bought == 127


def test_known_rows_and_repeated_texts_cost_nothing(made: Any) -> None:
    p = made(refine_pairs=10 * ROWS * COLUMNS, refine_rounds=1)
    scores, order, exact = choice(p)
    missing = int((~p.exact_store.coverage(p.rows, p.columns)).sum())
    shards = plan_refine(p, plan_exact(p), scores, order, exact, 10 * ROWS * COLUMNS)
    assert sum(s.missing for s in shards) == missing
    exact[: ROWS // 2] = True
    shards = plan_refine(p, plan_exact(p), scores, order, exact, 10 * ROWS * COLUMNS)
    assert {r for s in shards for r in s.rows} == set(p.pool.content_ids[ROWS // 2 :].tolist())
    exact[:] = True
    assert plan_refine(p, plan_exact(p), scores, order, exact, 100) == ()


def test_shards_and_looks_are_cut_but_buy_the_same(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    p = made(refine_pairs=400, refine_rounds=1)
    scores, order, exact = choice(p)

    def cells() -> set[tuple[int, int]]:
        shards = plan_refine(p, plan_exact(p), scores, order, exact, 400)
        return {(r, c) for s in shards for r in s.rows for c in s.columns}

    whole = cells()
    monkeypatch.setattr(refine, "LABEL_SHARD", 3 * COLUMNS)
    monkeypatch.setattr(refine, "_LOOK", 4)
    assert cells() == whole
    assert len(plan_refine(p, plan_exact(p), scores, order, exact, 400)) > 5


def test_labels_and_audit_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    p = problem(tmp_path, config(refine_pairs=50))
    with pytest.raises(ValueError, match="they come first"):
        plan_refine(p, plan_exact(p), *choice(p), 50)


def test_how_a_subset_moved() -> None:
    assert moved(np.array([1, 2, 3, 4]), np.array([4, 3, 2, 9])) == {"entered": 1, "left": 1, "jaccard": 0.6}
    assert moved(np.array([1, 2]), np.array([2, 1])) == {"entered": 0, "left": 0, "jaccard": 1.0}
    assert moved(np.empty(0, int), np.empty(0, int))["jaccard"] == 1.0
