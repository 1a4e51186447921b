"""Exact values of every label design: planned, computed, resumed, read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline.priced import COLUMNS, ROWS, Priced, config, problem, register, value

from nncift_core.influence.contract import Rows
from nncift_core.pipeline import exact
from nncift_core.pipeline.exact import ExactShard, compute_exact, exact_values, plan_exact, quadrant_of_pairs
from nncift_core.pipeline.exact_shards import pieces, stored_values
from nncift_core.pipeline.problem import Problem
from nncift_core.pipeline.result import members_table, run_facts

Make = Callable[..., Problem]
DESIGNS = ("block", "scattered", "all-targets")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    register(monkeypatch)

    def made(pool: range = range(ROWS), columns: int = COLUMNS, **settings: Any) -> Problem:
        return problem(tmp_path, config(**settings), pool, columns)

    return made


def pairs(rows: np.ndarray, columns: np.ndarray) -> set[tuple[int, int]]:
    return set(zip(rows.tolist(), columns.tolist(), strict=True))


def expected(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    nothing = ("",) * len(rows)
    return value(Rows(rows, nothing, nothing), Rows(columns, nothing, nothing))


def computed(p: Problem) -> tuple[Priced, int]:
    f = Priced()
    return f, sum(compute_exact(p, f, s) for s in plan_exact(p).shards)


@pytest.mark.parametrize("labels", DESIGNS)
def test_every_design_is_planned_computed_and_read_back(make: Make, labels: str) -> None:
    p = make(labels=labels)
    plan = plan_exact(p)
    rows, columns = plan.labels()
    assert plan.design.kind == labels and len(pairs(rows, columns)) == len(rows) > 20
    assert len(plan.audit_rows) == 50 and not pairs(plan.audit_rows, plan.audit_columns) & pairs(
        rows, columns
    )
    assert plan.missing == plan.pairs == len(rows) + 50
    f, done = computed(p)
    assert done == plan.pairs
    after = plan_exact(p)
    assert after.missing == 0 and after.pairs == plan.pairs and after.design.ref.key == plan.design.ref.key
    for purpose, wanted in (("label", (rows, columns)), ("audit", (plan.audit_rows, plan.audit_columns))):
        r, k, z = exact_values(p.exact_store, after.shards, purpose)
        assert (r.tolist(), k.tolist()) == (wanted[0].tolist(), wanted[1].tolist())
        np.testing.assert_array_equal(z, expected(r, k))
    assert [len(x) for x in exact_values(p.exact_store, after.shards, "refine")] == [0, 0, 0]
    # Shards travel between tasks as JSON-ready dicts.
    restored = [ExactShard(**json.loads(json.dumps(asdict(s)))) for s in after.shards]
    assert exact_values(p.exact_store, restored, "label")[0].tolist() == rows.tolist()


def test_designs_cost_the_same_tokens_and_say_so(make: Make) -> None:
    prices = {}
    for labels in DESIGNS:
        p = make(labels=labels)
        plan = plan_exact(p)
        ref, (rows, columns) = plan.design.ref, plan.labels()
        texts = p.texts(np.unique(rows)), p.texts(columns)
        paid = sum(map(len, texts[0].prompts)) + sum(map(len, texts[1].prompts))
        assert ref.cost == pytest.approx(paid, rel=0.02), "means over all rows and columns, which are few"
        assert ref.cost is not None and ref.block_cost is not None and ref.cost <= ref.block_cost
        prices[labels] = ref.block_cost
        facts = run_facts(p, plan, plan.pairs)
        assert (facts["label_design"], facts["label_pairs"]) == (labels, len(rows))
        assert (facts["label_cost"], facts["label_cost_unit"]) == (ref.cost, "tokens")
        assert facts["label_pairs_gone"] == facts["learning_pointless"] == 0
    assert len(set(prices.values())) == 1


def test_scattered_labels_are_cut_by_block_and_keep_the_pairs_of_a_row_together(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "LABEL_SHARD", 5)
    p = make(labels="scattered", label_fraction=0.4)
    shards = [s for s in plan_exact(p).shards if s.purpose == "label"]
    assert [s.name for s in shards] == [f"labels {n}" for n in range(len(shards))]
    place = {r: n for n, block in enumerate(p.row_shards) for r in block.tolist()}
    seen: set[int] = set()
    for s in shards:
        assert s.layout == "pairs" and len({place[r] for r in s.rows}) == 1
        assert not seen & set(s.rows), "one row, one shard"
        assert sorted(s.rows, key=p.rows.tolist().index) == list(s.rows)
        seen |= set(s.rows)
    assert len(seen) == ROWS and len(shards) > 8


def test_scattered_shards_resume_and_use_what_other_designs_computed(make: Make) -> None:
    p = make(labels="block")
    computed(p)
    p = make(labels="scattered")
    plan = plan_exact(p)
    known = stored_values(p.exact_store, *plan.labels())
    assert plan.missing == plan.pairs - sum(
        int((~np.isnan(stored_values(p.exact_store, np.array(s.rows), np.array(s.columns)))).sum())
        for s in plan.shards
    )
    assert 0 < int((~np.isnan(known)).sum()) < len(known)
    first, *rest = [s for s in plan.shards if s.missing]
    f = Priced()
    assert compute_exact(p, f, first) == first.missing
    assert compute_exact(p, f, first) == 0, "a second worker finds it done"
    assert sum(s.missing for s in plan_exact(p).shards) == sum(s.missing for s in rest)
    computed(p)
    rows, columns, z = exact_values(p.exact_store, plan_exact(p).shards, "label")
    np.testing.assert_array_equal(z, expected(rows, columns))


def test_chunks_of_pairs_never_part_a_row(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "CHUNK_PAIRS", 4)
    p = make(labels="scattered", label_fraction=0.5)
    chunks: list[np.ndarray] = []

    class Noting(Priced):
        def pairs(self, rows: Rows, columns: Rows, progress: Any = None) -> Any:
            chunks.append(rows.content_ids)
            return super().pairs(rows, columns, progress)

    for s in plan_exact(p).shards:
        if s.purpose == "label":
            compute_exact(p, Noting(), s)
    assert len(chunks) > 20
    together = [set(c.tolist()) for c in chunks]
    assert sum(map(len, together)) == len(set().union(*together))


def test_pieces_end_where_ids_change() -> None:
    ids = np.repeat([5, 3, 9, 9, 1], [2, 3, 1, 6, 2])
    assert [(s.start, s.stop) for s in pieces(ids, 5)] == [(0, 5), (5, 12), (12, 14)]
    assert [(s.start, s.stop) for s in pieces(np.arange(7), 3)] == [(0, 3), (3, 6), (6, 7)]
    assert list(pieces(np.empty(0, np.int64), 3)) == []


def test_stored_values_come_from_tiles_and_pairs_in_any_order(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = make(labels="block")
    computed(p)
    rng = np.random.default_rng(0)
    rows, columns = rng.choice(p.rows, 200), rng.choice(p.columns, 200)
    found = stored_values(p.exact_store, rows, columns)
    assert 0 < np.isnan(found).sum() < 200
    np.testing.assert_array_equal(stored_values(p.exact_store, rows, columns), found)
    monkeypatch.setattr("nncift_core.pipeline.exact_shards._CELLS", 50)
    np.testing.assert_array_equal(stored_values(p.exact_store, rows, columns), found)


def test_quadrants_follow_the_design(make: Make) -> None:
    found = {}
    for labels in DESIGNS:
        plan = plan_exact(make(labels=labels))
        audit = quadrant_of_pairs(plan.design, plan.audit_rows, plan.audit_columns)
        found[labels] = set(quadrant_of_pairs(plan.design, *plan.labels()).tolist()), set(audit.tolist())
    assert found["block"] == ({"Q1"}, {"Q2", "Q3", "Q4"})
    assert found["all-targets"] == ({"Q1"}, {"Q3"})
    assert found["scattered"] == ({"labels"}, {"unseen"})


def test_a_pool_that_changes_little_keeps_its_scattered_labels(make: Make) -> None:
    p = make(labels="scattered")
    computed(p)
    before = pairs(*plan_exact(p).labels())
    grown = plan_exact(make(labels="scattered", pool=range(ROWS + 8)))
    assert grown.design.ref.reused and pairs(*grown.labels()) == before
    assert sum(s.missing for s in grown.shards if s.purpose == "label") == 0
    shrunk = make(labels="scattered", pool=range(6, ROWS))
    plan = plan_exact(shrunk)
    assert plan.design.ref.reused and pairs(*plan.labels()) < before
    gone = set(p.rows[:6].tolist())
    assert pairs(*plan.labels()) == {(r, c) for r, c in before if r not in gone}
    facts = run_facts(shrunk, plan, plan.pairs)
    assert facts["label_pairs_gone"] == len(before) - facts["label_pairs"] > 0
    assert not plan_exact(make(labels="scattered", pool=range(2 * ROWS))).design.ref.reused


def test_what_costs_nothing_is_all_exact(make: Make) -> None:
    p = make(function="free")
    plan = plan_exact(p)
    assert (plan.design.kind, plan.pairs, len(plan.audit_rows)) == ("block", ROWS * COLUMNS, 0)
    facts = run_facts(p, plan, plan.pairs)
    assert facts["learning_pointless"] == 1 and not facts["exact_is_cheap"]
    learned = make(function="free", labels="scattered")
    facts = run_facts(learned, plan_exact(learned), 0)
    assert (
        facts["learning_pointless"] == 0 and facts["exact_is_cheap"] and facts["label_cost_unit"] == "pairs"
    )


@pytest.mark.parametrize(("columns", "kind"), [(3, "all-targets"), (COLUMNS, "block")])
def test_linear_work_gets_all_targets_or_a_tall_block(make: Make, columns: int, kind: str) -> None:
    plan = plan_exact(make(function="linear", columns=columns))
    ref = plan.design.ref
    assert (plan.design.kind, ref.cost_unit) == (kind, "rows")
    assert ref.rows + ref.columns == ref.cost == ref.block_cost
    assert ref.rows > ref.columns


def test_members_say_which_rows_hold_labels(make: Make) -> None:
    plan = plan_exact(p := make(labels="scattered", label_fraction=0.1))
    members = members_table(p, plan).to_pylist()
    labelled = {m["content_id"] for m in members if m["labelled"] and m["side"] == "row"}
    assert labelled == set(plan.labels()[0].tolist()) and 0 < len(labelled) < ROWS
