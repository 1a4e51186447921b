"""Gains under facility location against the objective as it is written."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline.explained import POOL, f, publish_run, scaled
from pipeline.priced import register

from nncift_core.pipeline import explain_coverage, explain_objective
from nncift_core.pipeline.explain import explain
from nncift_core.pipeline.explain_objective import Stored, objective_of
from nncift_core.store.matrix import MatrixReader, RowBlock

RULES: list[tuple[str, dict[str, Any]]] = [
    ("fl", {"count": 6}),
    ("flmi", {"count": 7, "eta": 0.5}),
    ("flcg", {"count": 6, "nu": 0.7, "existing": {"source": "x"}}),
]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def objective(stored: Stored, rule: str, given: dict[str, Any]) -> Any:
    """f of a list of pool rows, computed apart."""
    s, old = scaled(stored)
    return partial(f, rule, s, old=old, weight=given.get("eta", given.get("nu", 0.0)))


def asked(stored: Stored, row: int) -> dict[str, Any]:
    return explain(stored.ws, f"row:{row}", stored.run_id)


@pytest.mark.parametrize(("rule", "given"), RULES)
def test_a_chosen_rows_gain_and_rival_are_those_of_the_objective(
    tmp_path: Path, rule: str, given: dict[str, Any]
) -> None:
    stored = publish_run(tmp_path, rule=rule, **given)
    value, order = objective(stored, rule, given), stored.order().tolist()
    whole = value(order)
    for step, row in enumerate(order):
        before = order[:step]
        gain = {a: value([*before, a]) - value(before) for a in range(POOL) if a not in before}
        told = asked(stored, row)["choice"]
        assert told["rank"] == step + 1
        assert told["gain"] == pytest.approx(gain[row], abs=1e-5)
        assert told["gain_again"] == pytest.approx(gain[row], abs=1e-5)
        assert told["share"] == pytest.approx(gain.pop(row) / whole, abs=1e-5)
        rival = told["replaced_by"]
        assert rival["gain"] == pytest.approx(max(gain.values()), abs=1e-5)
        assert gain[rival["row_number"]] == pytest.approx(max(gain.values()), abs=1e-5)
        never = {a: g for a, g in gain.items() if a not in order}
        assert told["left_out"]["gain"] == pytest.approx(max(never.values()), abs=1e-5)
        assert told["left_out"]["rank"] is None
        assert told["left_out"]["difference"] == pytest.approx(told["gain_again"] - told["left_out"]["gain"])


@pytest.mark.parametrize(("rule", "given"), RULES)
def test_what_a_row_lacked_to_be_picked_is_that_of_the_objective(
    tmp_path: Path, rule: str, given: dict[str, Any]
) -> None:
    stored = publish_run(tmp_path, rule=rule, **given)
    value, order = objective(stored, rule, given), stored.order().tolist()
    (s, old), nobody = scaled(stored), 0
    for row in sorted(set(range(POOL)) - set(order))[::8]:
        told = asked(stored, row)["choice"]
        lack = [
            value([*order[:k], order[k]]) - value([*order[:k], row]) for k in range(len(order))
        ]  # the gain that it lacks at every step
        assert not told["chosen"] and told["rank"] is None
        assert told["rise"] == pytest.approx(min(lack), abs=1e-5)
        assert lack[told["nearest_step"] - 1] == pytest.approx(min(lack), abs=1e-5)
        assert told["nearest_pick"]["row_number"] == order[told["nearest_step"] - 1]
        assert told["gain_at_end"] == pytest.approx(value([*order, row]) - value(order), abs=1e-5)
        assert told["last_gain"] == pytest.approx(value(order) - value(order[:-1]), abs=1e-5)
        raw = s[row].argsort()[::-1]
        assert [t["row_number"] for t in told["targets"]] == raw[:5].tolist()
        for t in told["targets"]:
            column = t["row_number"]
            best = order[int(s[order, column].argmax())]
            floor = given["nu"] * old[:, column].max() if rule == "flcg" else 0.0
            if s[best, column] <= floor:
                nobody += 1
                assert t["covered_by"] is None
            else:
                assert t["covered_by"]["row_number"] == best
            covered = max(s[best, column], floor)
            assert t["adds"] == pytest.approx(max(0.0, s[row, column] - covered), abs=1e-5)
    assert nobody == 0 or rule == "flcg"


def test_only_mutual_information_has_a_part_that_no_other_row_takes_away(tmp_path: Path) -> None:
    stored = publish_run(tmp_path, rule="flmi", count=7, eta=0.5)
    row = int(stored.order()[3])
    best = 0.5 * scaled(stored)[0][row].max()
    assert asked(stored, row)["choice"]["own_match"] == pytest.approx(best, abs=1e-5)
    plain = publish_run(tmp_path / "fl", rule="fl", count=6)
    assert asked(plain, int(plain.order()[0]))["choice"]["own_match"] is None


def test_a_pool_valued_against_itself_is_told_like_any_other(tmp_path: Path) -> None:
    """Copies are target rows of their own, and count as such."""
    stored = publish_run(tmp_path, rule="fl", count=5, targets=0)
    value, order = objective(stored, "fl", {}), stored.order().tolist()
    told = asked(stored, order[2])
    assert told["choice"]["gain_again"] == pytest.approx(value(order[:3]) - value(order[:2]), abs=1e-5)
    row = next(i for i in range(POOL) if i not in order)
    left = asked(stored, row)
    assert left["choice"]["of_targets"] == POOL and left["values"][0]["task"] == "made"
    assert left["choice"]["gain_at_end"] == pytest.approx(value([*order, row]) - value(order), abs=1e-5)
    assert all(t["dataset"] == "made" and t["text"].startswith("pool ") for t in left["values"][0]["best"])


def test_targets_that_a_row_covers_best_are_counted(tmp_path: Path) -> None:
    stored = publish_run(tmp_path, rule="fl", count=6)
    s, order = scaled(stored)[0], stored.order().tolist()
    counts = [asked(stored, row)["choice"]["represents"] for row in order]
    assert counts == np.bincount(s[order].argmax(axis=0), minlength=len(order)).tolist()


@pytest.mark.parametrize(("rule", "given"), RULES)
def test_the_objective_of_any_subset_over_some_targets_is_the_one_written(
    tmp_path: Path, rule: str, given: dict[str, Any]
) -> None:
    stored = publish_run(tmp_path, rule=rule, **given)
    s, old = scaled(stored)
    picked, some = [4, 1, 20], np.array([0, 3, 7])
    weight = given.get("eta", given.get("nu", 0.0))
    for targets in (None, some):
        at = np.arange(s.shape[1]) if targets is None else targets
        expected = f(rule, s[:, at], picked, old[:, at], weight)
        assert objective_of(stored, np.array(picked), targets) == pytest.approx(expected, abs=1e-5)
    assert stored.facts["objective"] == pytest.approx(objective_of(stored, stored.order()), abs=1e-5)
    assert objective_of(stored, np.empty(0, np.int64)) == 0


def test_an_approximate_selection_and_values_measured_since_are_said(tmp_path: Path) -> None:
    stored = publish_run(tmp_path, rule="fl", count=6, mode="stochastic", all_exact=False)
    chosen = int(stored.order()[-1])
    assert any("approximately (stochastic)" in n for n in asked(stored, chosen)["notes"])
    assert not any("as they were" in n for n in asked(stored, 27)["notes"])
    p = stored.problem
    values = np.full((5, len(p.columns)), 0.4, np.float32)
    assert int(p.pool.content_ids[27]) in p.rows[-5:].tolist()
    p.exact_store.write_tile(p.rows[-5:], p.columns, values, producer="exact-influence")
    assert any("score and rank as they were" in n for n in asked(stored, 27)["notes"])


@pytest.mark.parametrize(("rule", "given"), RULES)
def test_the_matrix_is_read_by_blocks_that_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, given: dict[str, Any]
) -> None:
    stored = publish_run(tmp_path, rule=rule, **given)
    chosen, other = int(stored.order()[4]), 27
    expected = [asked(stored, row)["choice"] for row in (chosen, other)]
    read: list[int] = []
    block = MatrixReader.block

    def counted(self: MatrixReader, row_ids: Any) -> RowBlock:
        read.append(len(row_ids))
        return block(self, row_ids)

    monkeypatch.setattr(MatrixReader, "block", counted)
    for module in (explain_objective, explain_coverage):
        monkeypatch.setattr(module, "MEMORY", 4 * 4 * len(stored.problem.columns))
    assert [asked(stored, row)["choice"] for row in (chosen, other)] == expected
    assert max(read) <= 4 and len(read) > POOL / 4
