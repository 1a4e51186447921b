"""What methods cost, and from which pool size on estimates pay."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nncift_core.pipeline.compare_costs import (
    break_even,
    cost_rows,
    grouped,
    method_seconds,
    same_prices,
    split_stage,
)
from nncift_core.pipeline.methods import Method

EXACT, ESTIMATED = Method("less", "exact"), Method("less", "estimated")


def cost(stage: str, items: int, computed: int, seconds: float, run: str = "r") -> dict[str, Any]:
    return {"run_id": run, "stage": stage, "items": items, "computed": computed, "seconds": seconds}


def test_a_stage_that_found_its_values_costs_what_others_measured_for_the_same_work() -> None:
    costs = [
        cost("embed (less, estimated)", 100, 100, 10.0),
        cost("embed (less, exact)", 100, 0, 0.0),
        cost("exact-influence (less, estimated)", 50, 50, 5.0),
        cost("exact-influence (less, exact)", 1000, 950, 95.0),
        cost("exact-influence (delift, exact)", 1000, 1000, 9999.0),
        cost("ingest", 7, 7, 7.0),
    ]
    rows = cost_rows(costs, [EXACT, ESTIMATED], "r")
    assert method_seconds(rows, "less, exact") == pytest.approx(10 + 1000 * 0.1)
    assert method_seconds(rows, "less, estimated") == pytest.approx(10 + 50 * 0.1)
    assert grouped(rows, "less, exact") == pytest.approx({"embeddings": 10, "labels": 100})


def test_what_estimators_read_of_a_model_costs_the_same_whatever_the_function() -> None:
    other, small = Method("delift", "estimated"), Method("less", "estimated", teacher="small")
    costs = [
        cost("estimator-features (delift, estimated)", 10, 10, 20.0),
        cost("estimator-features (less, estimated)", 10, 0, 0.0),
        cost(f"estimator-features ({small.name})", 10, 0, 0.0),
    ]
    found = {r["method"]: r["full_seconds"] for r in cost_rows(costs, [other, ESTIMATED, small], "r")}
    assert found == {other.name: 20.0, ESTIMATED.name: 20.0, small.name: None}


def test_what_was_never_measured_has_no_price() -> None:
    rows = cost_rows([cost("features (less, exact)", 10, 0, 0.1)], [EXACT], "r")
    assert rows[0]["full_seconds"] is None and method_seconds(rows, "less, exact") is None
    assert method_seconds(rows, "bm25") is None
    assert break_even(rows, "less, exact", "less, estimated", 10) is None


def test_attempts_add_up_and_other_runs_only_price_the_work() -> None:
    costs = [
        cost("features (less, exact)", 10, 4, 4.0),
        cost("features (less, exact)", 10, 6, 8.0),
        cost("features (less, exact)", 99, 0, 0.0, run="other"),
    ]
    (row,) = cost_rows(costs, [EXACT], "r")
    assert (row["items"], row["computed"], row["seconds"]) == (10, 10, 12.0)
    assert row["full_seconds"] == pytest.approx(12.0)


def test_estimating_pays_from_where_the_lines_of_both_costs_cross() -> None:
    costs = [
        cost("exact-influence (less, exact)", 1000, 1000, 100.0),
        cost("exact-influence (less, estimated)", 100, 100, 10.0),
        cost("train-influence-network (less, estimated)", 1, 1, 45.0),
    ]
    rows = cost_rows(costs, [EXACT, ESTIMATED], "r")
    even = break_even(rows, "less, exact", "less, estimated", 100)
    # At M rows: exact costs M, estimated 45 + .1 M.
    assert even == pytest.approx(50)
    dear = cost_rows([*costs, cost("features (less, estimated)", 1, 1, 500.0)], [EXACT, ESTIMATED], "r")
    assert break_even(dear, "less, exact", "less, estimated", 100) == math.inf


def test_a_stage_carries_its_method() -> None:
    assert split_stage("exact-influence (delift by small, exact)") == (
        "exact-influence",
        "delift by small, exact",
    )
    assert split_stage("embed") == ("embed", "")


def test_other_runs_price_a_stage_only_where_they_had_the_same_models() -> None:
    costs = [
        cost("features (less, exact)", 10, 0, 0.1),
        cost("features (less, exact)", 10, 10, 5.0, run="alike"),
        cost("features (less, exact)", 10, 10, 5000.0, run="larger model"),
    ]
    assert cost_rows(costs, [EXACT], "r", {"alike"})[0]["full_seconds"] == pytest.approx(5.0)
    assert cost_rows(costs, [EXACT], "r")[0]["full_seconds"] is None
    now = {
        "language_model": {"model": "a"},
        "encoder": {},
        "influence": {"function": "less", "less": {"rank": 8}},
    }
    assert same_prices(now | {"influence": {"function": "delift", "less": {"rank": 8}}}, now)
    assert not same_prices(now | {"language_model": {"model": "b"}}, now)
    assert not same_prices(now | {"influence": {"less": {"rank": 9}}}, now)


def test_estimates_made_while_rows_are_selected_do_not_price_the_exact_selection() -> None:
    costs = [
        cost("select (less, exact)", 100, 100, 1.0),
        cost("select (less, estimated)", 100, 100, 99.0),
    ]
    rows = cost_rows(costs, [EXACT, ESTIMATED], "r")
    assert method_seconds(rows, "less, exact") == pytest.approx(1.0)
