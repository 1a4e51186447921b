"""What entered and left a subset and why, on small stored results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from nncift_core.errors import IntegrityError, UserError
from nncift_core.pipeline import diff
from nncift_core.pipeline.diff import Chosen, changes, reason, subset_changes, summary
from nncift_core.pipeline.diff_runs import compare_runs, excerpts
from nncift_core.records import Example
from nncift_core.store.dataset_writer import store_dataset
from nncift_core.store.datasets import Dataset
from nncift_core.store.query import rows
from nncift_core.store.runs import attempt, publish_table
from nncift_core.store.views import rows_table
from nncift_core.store.workspace import Workspace

BEFORE, AFTER = "a" * 16, "b" * 16


def chosen(scores: dict[int, float], picked: list[int], exact: tuple[int, ...] = (), **more: Any) -> Chosen:
    """A run over the rows of `scores` that picked some of them in that order."""
    given = {"run_id": AFTER, "rule": "top-k", "origin": "estimated"} | more
    ranks = {row: k for k, row in enumerate(picked, 1)}
    return Chosen(rank=ranks, score=scores, exact=frozenset(exact), **given)


def why(before: Chosen, after: Chosen) -> dict[int, tuple[str, str]]:
    """Row -> (change, reason)."""
    return {row["train_id"]: (row["change"], row["why"]) for row in changes(before, after)}


OLD = {1: 0.9, 2: 0.8, 3: 0.7, 4: 0.1, 5: 0.0}


def test_rows_that_came_and_went_are_the_reason_before_any_score() -> None:
    before = chosen(OLD, [1, 2])
    after = chosen({2: 0.8, 3: 0.7, 4: 0.1, 5: 0.0, 6: 0.95}, [6, 2])
    assert why(before, after) == {6: ("entered", diff.NEW), 1: ("left", diff.REMOVED)}


def test_scores_that_moved_far_enough_are_named_with_their_numbers() -> None:
    after = chosen({**OLD, 4: 0.85, 2: 0.3}, [1, 4])
    assert why(chosen(OLD, [1, 2]), after) == {
        4: ("entered", "its score rose (from 0.1 to 0.85)"),
        2: ("left", "its score fell (from 0.8 to 0.3)"),
    }


def test_a_score_that_did_not_decide_is_no_reason() -> None:
    """Row 2 lost a little, but is out because row 4 rose above what row 2 had."""
    after = chosen({**OLD, 4: 0.85, 2: 0.79}, [1, 4])
    assert why(chosen(OLD, [1, 2]), after)[2] == ("left", diff.DISPLACED)
    # Row 3 rose a little, but its old score would do now that row 2 is gone.
    after = chosen({1: 0.9, 3: 0.75, 4: 0.1, 5: 0.0}, [1, 3])
    assert why(chosen(OLD, [1, 2]), after)[3] == ("entered", diff.MOVED_UP)


def test_exact_values_come_before_the_score_and_only_if_it_moved() -> None:
    before = chosen(OLD, [1, 2])
    after = chosen({**OLD, 4: 0.85, 2: 0.3}, [1, 4], exact=(2, 4))
    assert [reason(w) for _, w in why(before, after).values()] == [diff.EXACT] * 2
    still = chosen(OLD, [1, 3], exact=(2, 3))
    assert why(before, still) == {3: ("entered", diff.MOVED_UP), 2: ("left", diff.DISPLACED)}
    known = chosen(OLD, [1, 2], exact=(2, 4))
    assert why(known, after)[4] == ("entered", "its score rose (from 0.1 to 0.85)")


def test_rounding_moves_no_score() -> None:
    after = chosen({**OLD, 3: 0.7 + 1e-7, 2: 0.8 - 1e-7}, [1, 3], rule="flmi")
    before = chosen(OLD, [1, 2], rule="flmi")
    assert why(before, after) == {3: ("entered", diff.MOVED_UP), 2: ("left", diff.DISPLACED)}


def test_a_budget_that_grows_or_shrinks_moves_rows() -> None:
    few, many = chosen(OLD, [1, 2]), chosen(OLD, [1, 2, 3, 4])
    assert why(few, many) == {3: ("entered", diff.MOVED_UP), 4: ("entered", diff.MOVED_UP)}
    assert set(why(many, few).values()) == {("left", f"{diff.SHRANK} (to 2)")}


def test_coverage_ranks_by_picking_so_any_move_in_its_direction_counts() -> None:
    before, moved = chosen(OLD, [1, 2], rule="fl"), {**OLD, 2: 0.75, 3: 0.72}
    assert why(before, chosen(moved, [1, 3], rule="fl")) == {
        3: ("entered", "its score rose (from 0.7 to 0.72)"),
        2: ("left", "its score fell (from 0.8 to 0.75)"),
    }
    against = chosen({**OLD, 2: 0.85, 3: 0.6}, [1, 3], rule="fl")
    assert why(before, against) == {3: ("entered", diff.MOVED_UP), 2: ("left", diff.DISPLACED)}


def test_rows_carry_what_stood_before_and_what_stands_now() -> None:
    before = chosen(OLD, [1, 2], exact=(2,), run_id=BEFORE)
    found = changes(before, chosen({1: 0.9, 3: 0.7}, [3, 1], origin="baseline"))
    assert found == [
        {
            "run_id": AFTER, "previous_run": BEFORE, "train_id": 3, "change": "entered",
            "why": diff.MOVED_UP, "rank_before": None, "rank_after": 1, "score_before": 0.7,
            "score_after": 0.7, "origin_before": "estimated", "origin_after": "baseline",
        },
        {
            "run_id": AFTER, "previous_run": BEFORE, "train_id": 2, "change": "left",
            "why": diff.REMOVED, "rank_before": 2, "rank_after": None, "score_before": 0.8,
            "score_after": None, "origin_before": "exact", "origin_after": None,
        },
    ]  # fmt: skip


def test_rows_come_by_rank_and_are_counted_by_reason() -> None:
    before = chosen(dict.fromkeys(range(9), 0.5), [8, 7, 6])
    found = changes(before, chosen({**dict.fromkeys(range(8), 0.5), 9: 0.6, 3: 0.7}, [3, 9, 2]))
    assert [(r["change"], r["train_id"]) for r in found] == [
        ("entered", 3), ("entered", 9), ("entered", 2), ("left", 8), ("left", 7), ("left", 6),
    ]  # fmt: skip
    assert summary(found) == [
        {"change": "entered", "why": diff.ROSE, "rows": 1},
        {"change": "entered", "why": diff.MOVED_UP, "rows": 1},
        {"change": "entered", "why": diff.NEW, "rows": 1},
        {"change": "left", "why": diff.DISPLACED, "rows": 2},
        {"change": "left", "why": diff.REMOVED, "rows": 1},
    ]


def test_equal_subsets_have_no_changes() -> None:
    assert changes(chosen(OLD, [1, 2]), chosen({**OLD, 2: 0.85}, [2, 1])) == []


def test_a_fall_that_would_have_sufficed_alone_is_the_reason() -> None:
    """Others rose above it as well: its new score would have been too low even among the old ones."""
    after = chosen({1: 0.9, 2: 0.6, 3: 0.95, 4: 0.1, 5: 0.0}, [3, 1])
    assert reason(why(chosen(OLD, [1, 2]), after)[2][1]) == diff.FELL


def publish(
    ws: Workspace,
    run: str,
    pool: list[str],
    scores: list[tuple[float, float]],
    picked: list[int],
    **more: Any,
) -> Dataset:
    """A published run over rows with these prompts: scores under two tasks, positions of the picks."""
    examples = [Example(text, f"answer to {text}", k) for k, text in enumerate(pool)]
    ref = store_dataset(ws, examples, dataset="mine", role="pool", block_rows=10, fingerprint="f")
    dataset = Dataset(ws, ref)
    ids = dataset.example_ids.tolist()
    function, rule = more.pop("function", "less"), more.pop("rule", "top-k")
    tables = {
        "scores": [
            {
                "run_id": run, "function": function, "task": task, "variant": "mean", "seed": 0,
                "origin": "estimated", "train_id": i, "score": pair[t],
            }
            for t, task in enumerate(("a", "b")) for i, pair in zip(ids, scores, strict=True)
        ],
        "selection": [
            {"run_id": run, "rank": k, "train_id": ids[p], "gain": 0.1, "score": max(scores[p])}
            for k, p in enumerate(picked, 1)
        ],
    }  # fmt: skip
    paths = {
        view: publish_table(ws, run, view, "0" * 16, rows_table(view, found), producer="test", parents=())
        for view, found in tables.items()
    }
    with attempt(ws, run, more.pop("config", {"seed": 0}), {}) as current:
        current.publish_result(
            {
                "run_id": run,
                "datasets": [
                    {**ref.model_dump(mode="json"), "blocks": [ws.relative(b) for b in dataset.blocks]}
                ],
                "matrix": {"function": function},
                "tables": paths,
                "facts": {"rule": rule, **more},
            }
        )  # fmt: skip
    return dataset


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """Two runs: the second pool has lost "two" and won "four"; scores are the better of two tasks."""
    ws = Workspace.create(tmp_path / "ws")
    first = [(0.1, 0.9), (0.8, 0.2), (0.3, 0.2)]
    publish(ws, BEFORE, ["one", "two", "three"], first, [0, 1], config={"seed": 0, "a": {"b": 1}})
    second = [(0.1, 0.9), (0.3, 0.2), (0.1, 0.7)]
    facts = {"estimator": "kernel", "estimator_used": "kernel", "estimator_verdict": "trusted"}
    publish(ws, AFTER, ["one", "three", "four"], second, [0, 2], config={"seed": 1, "a": {"b": 1}}, **facts)
    return ws


def test_stored_runs_are_compared_by_their_best_task(ws: Workspace) -> None:
    found = subset_changes(ws, BEFORE, AFTER)
    assert [(r["change"], r["why"], r["score_before"], r["score_after"]) for r in found] == [
        ("entered", diff.NEW, None, 0.7),
        ("left", diff.REMOVED, 0.8, None),
    ]
    assert subset_changes(ws, "aa", "bb") == found, "a unique prefix will do"


def test_a_run_that_is_not_there_is_the_users_mistake(ws: Workspace) -> None:
    for wrong in ("c", "all"):
        with pytest.raises(UserError, match=wrong):
            subset_changes(ws, BEFORE, wrong)
    with attempt(ws, "c" * 16, {}, {}):
        pass
    with pytest.raises(UserError, match="no subset to compare"):
        subset_changes(ws, "c", BEFORE)


def test_a_damaged_table_is_named(ws: Workspace) -> None:
    path = next(ws.run_dir(AFTER).glob("tables/scores-*.parquet"))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(IntegrityError, match="scores-"):
        subset_changes(ws, BEFORE, AFTER)


def test_the_view_shows_what_a_run_has_stored(ws: Workspace) -> None:
    found = subset_changes(ws, BEFORE, AFTER)
    assert rows(ws, "SELECT * FROM subset_changes", AFTER) == []
    table = rows_table("subset_changes", found)
    path = ws.run_dir(AFTER) / "changes.parquet"
    pq.write_table(table, path)
    with attempt(ws, AFTER, {}, {}) as current:
        result = {"run_id": AFTER, "datasets": [], "matrix": {}, "facts": {}}
        current.publish_result({**result, "tables": {"subset_changes": ws.relative(path)}})
    assert rows(ws, "SELECT * FROM subset_changes", AFTER) == found


def test_runs_are_told_side_by_side(ws: Workspace) -> None:
    found = compare_runs(ws, BEFORE, AFTER)
    told = found.told
    assert (told["before"]["run_id"], told["after"]["chosen"]) == (BEFORE, 2)
    assert told["config"] == [{"key": "seed", "before": 0, "after": 1}]
    assert told["data"] == [{"role": "pool", "before": 3, "after": 3, "added": 1, "removed": 1}]
    assert told["subset"] == {"both": 1, "entered": 1, "left": 1, "jaccard": 1 / 3}
    assert told["scores"] == {"common_rows": 2, "spearman": None}
    assert told["estimator"][0]["estimator"] is None and told["estimator"][1]["verdict"] == "trusted"
    assert told["notes"] == []
    assert sorted(excerpts(ws, found, found.changes).values()) == ["four", "two"]


def test_rank_agreement_is_of_common_rows(ws: Workspace) -> None:
    scores = [(0.9, 0.0), (0.3, 0.0), (0.5, 0.0), (0.1, 0.0)]
    publish(ws, "d" * 16, ["one", "two", "three", "five"], scores, [0])
    assert compare_runs(ws, BEFORE, "d").told["scores"] == {"common_rows": 3, "spearman": 0.5}


def test_runs_that_hardly_compare_are_allowed_and_said(ws: Workspace) -> None:
    publish(ws, "e" * 16, ["x", "y"], [(1, 2), (3, 4)], [1], function="delift", rule="flmi")
    notes = compare_runs(ws, BEFORE, "e").told["notes"]
    assert [n.split(":")[0] for n in notes] == [
        "the runs use different functions (less and delift)",
        "the runs value different pools",
        "the runs select by different rules (top-k and flmi)",
        "flmi picks a row for what it adds beside those before it",
    ]
