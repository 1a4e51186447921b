"""Plans of a refresh: the earlier design whatever the growth; an audit of what is new, labels among it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline.priced import COLUMNS, ROWS, Priced, config, problem, register

from nncift_core.config import parse_config, run_key, series_key
from nncift_core.errors import UserError
from nncift_core.pipeline.audit import batch_audit
from nncift_core.pipeline.exact import ExactPlan, compute_exact, plan_exact
from nncift_core.pipeline.problem import Problem
from nncift_core.pipeline.refresh import changes, extend_labels, going_on, keep_design
from nncift_core.store.references import Refresh

Make = Callable[..., Problem]
DESIGNS = ("block", "scattered", "all-targets")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    register(monkeypatch)

    def made(pool: range = range(ROWS), columns: int = COLUMNS, **settings: Any) -> Problem:
        return problem(tmp_path, config(**settings), pool, columns)

    return made


def computed(p: Problem) -> int:
    return sum(compute_exact(p, Priced(), s) for s in plan_exact(p).shards)


def refreshed(before: Problem, now: Problem, audit: int = 30) -> Problem:
    """`now`, going on from `before`."""
    refs = tuple(d.ref for d in before.datasets)
    design = plan_exact(before).design.ref.key
    given = Refresh(previous="earlier", datasets=refs, design=design, audit_pairs=audit)
    return replace(now, refresh=Refresh.model_validate_json(given.model_dump_json()))


def pairs(rows: np.ndarray, columns: np.ndarray) -> set[tuple[int, int]]:
    return set(zip(rows.tolist(), columns.tolist(), strict=True))


def audit_of(plan: ExactPlan) -> set[tuple[int, int]]:
    return pairs(plan.audit_rows, plan.audit_columns)


@pytest.mark.parametrize("labels", DESIGNS)
def test_the_design_stays_however_much_came(make: Make, labels: str) -> None:
    before = make(labels=labels)
    first = computed(before)
    grown = make(labels=labels, pool=range(2 * ROWS))
    p = refreshed(before, grown)
    plan = plan_exact(p)
    assert plan.design.ref.key == plan_exact(before).design.ref.key and plan.design.ref.reused
    assert pairs(*plan.labels()) == pairs(*plan_exact(before).labels())
    assert sum(s.missing for s in plan.shards if s.purpose == "label") == 0
    new = set(p.rows[~np.isin(p.rows, before.rows)].tolist())
    batch = pairs(*batch_audit(p, plan.design))
    assert len(batch) == 30 and {r for r, _ in batch} <= new and batch <= audit_of(plan)
    assert len(audit_of(plan)) == len(plan.audit_rows), "no pair twice"
    assert 30 <= computed(p) < first
    assert computed(refreshed(before, grown)) == 0, "the same pairs are drawn again"


def test_an_ordinary_run_on_the_same_data_uses_the_design_that_a_refresh_noted(make: Make) -> None:
    before = make()
    grown = make(pool=range(2 * ROWS))
    p = refreshed(before, grown)
    key = plan_exact(before).design.ref.key
    assert plan_exact(grown).design.ref.key != key, "alone it is drawn anew"
    keep_design(p, key)
    assert plan_exact(grown).design.ref.key == key


@pytest.mark.parametrize("labels", DESIGNS)
def test_labels_are_added_among_what_is_new_at_the_first_density(make: Make, labels: str) -> None:
    before = make(labels=labels)
    computed(before)
    p = refreshed(before, make(labels=labels, pool=range(2 * ROWS)))
    plan = plan_exact(p)
    computed(p)
    extended = extend_labels(p, plan.design)
    assert extended is not None and extended.ref.extends == plan.design.ref.key
    assert p.refresh is not None
    after = plan_exact(replace(p, refresh=p.refresh.model_copy(update={"design": extended.ref.key})))
    old, grown = pairs(*plan.labels()), pairs(*after.labels())
    new = set(p.rows[~np.isin(p.rows, before.rows)].tolist())
    assert grown > old and {r for r, _ in grown - old} <= new
    assert len(grown - old) == pytest.approx(len(old), rel=0.1), "as many new rows as old ones"
    assert not audit_of(after) & grown and len(audit_of(after)) >= 50
    assert extend_labels(p, plan.design) is not None
    again = extend_labels(p, extended)
    assert again is None, "everything is known to it"


def test_new_target_rows_are_labelled_too(make: Make) -> None:
    for labels in DESIGNS:
        before = make(labels=labels, label_fraction=0.3)
        p = refreshed(before, make(labels=labels, label_fraction=0.3, columns=2 * COLUMNS))
        plan = plan_exact(p)
        new = set(p.columns[~np.isin(p.columns, before.columns)].tolist())
        assert {c for _, c in pairs(*batch_audit(p, plan.design))} <= new
        extended = extend_labels(p, plan.design)
        assert extended is not None and p.refresh is not None
        after = plan_exact(replace(p, refresh=p.refresh.model_copy(update={"design": extended.ref.key})))
        added = pairs(*after.labels()) - pairs(*plan.labels())
        assert len(added) >= 20 and {c for _, c in added} <= new


def test_rows_that_went_take_their_labels_along_and_are_counted(make: Make) -> None:
    before = make()
    computed(before)
    now = make(pool=range(10, ROWS + 5))
    p = refreshed(before, now)
    plan = plan_exact(p)
    gone = set(before.rows[:10].tolist())
    assert not gone & {r for r, _ in pairs(*plan.labels()) | audit_of(plan)}
    found = changes(p.ws, [d.ref for d in before.datasets], [d.ref for d in now.datasets])
    assert found == {
        "refresh_new_rows": 5, "refresh_removed_rows": 10,
        "refresh_new_targets": 0, "refresh_removed_targets": 0,
    }  # fmt: skip


def test_a_pool_of_other_rows_altogether_has_its_labels_drawn_anew(make: Make) -> None:
    for labels in DESIGNS:
        before = make(labels=labels)
        design = plan_exact(before).design
        earlier = {
            "run_id": "earlier",
            "matrix": {"keys": asdict(before.keys), "estimator": {}, "design_key": design.ref.key},
            "datasets": [d.ref.model_dump(mode="json") for d in before.datasets],
        }
        refresh, decided = going_on(make(labels=labels), earlier)
        assert refresh is not None and decided is None
        refresh, decided = going_on(make(labels=labels, pool=range(1000, 1000 + ROWS)), earlier)
        assert refresh is None and decided is not None and decided.kind == "retrained"
        assert "no labelled row or target is left" in decided.reason


def test_nothing_new_audits_nothing_more(make: Make) -> None:
    before = make()
    p = refreshed(before, make())
    assert len(batch_audit(p, plan_exact(p).design)[0]) == 0
    assert audit_of(plan_exact(p)) == audit_of(plan_exact(before))


def test_of_a_pointwise_function_half_of_the_new_rows_are_left_to_estimate(make: Make) -> None:
    before = make(function="single", audit_pairs=10)
    p = refreshed(before, make(function="single", audit_pairs=10, pool=range(ROWS + 20)), audit=60)
    assert len(batch_audit(p, plan_exact(p).design)[0]) == 10


def test_a_series_knows_the_data_by_name_only() -> None:
    made = parse_config({"pool": {"source": "pool.jsonl"}})
    one, other = {"pool:a": "v1", "target:b": "v1"}, {"pool:a": "v2", "target:b": "v1"}
    assert run_key(made, one, {}) != run_key(made, other, {})
    assert series_key(made, one, {}) == series_key(made, other, {})
    assert series_key(made, {"pool:c": "v1", "target:b": "v1"}, {}) != series_key(made, one, {})


def test_the_section_is_checked_and_belongs_to_no_run() -> None:
    plain = parse_config({"pool": {"source": "pool.jsonl"}})
    raw = {k: v for k, v in plain.model_dump(mode="json").items() if k != "evaluation"}
    changed = parse_config({**raw, "refresh": {"audit_pairs": 100, "level": 0.001}})
    assert run_key(changed, {}, {}) == run_key(plain, {}, {})
    for wrong in ({"level": 0}, {"minimum_new": 10}, {"audit": 3}):
        with pytest.raises(UserError, match="refresh"):
            parse_config({**raw, "refresh": wrong})
