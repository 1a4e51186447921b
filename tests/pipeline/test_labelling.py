"""Which design follows from config and cost structure, and at what price."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pipeline.priced import COLUMNS, ROWS, Priced, config, problem, register

from nncift_core.estimator.label_sizes import Costs
from nncift_core.influence.contract import Rows
from nncift_core.pipeline.labelling import (
    flat_costs,
    label_costs,
    label_fraction,
    label_rule,
    learning_pointless,
    planned_labels,
)
from nncift_core.pipeline.problem import Keys, design_family


@pytest.fixture(autouse=True)
def _functions(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def texts(ids: np.ndarray, side: str) -> Rows:
    length = 60 if side == "row" else 25
    return Rows(ids, tuple("x" * (length + int(i) % 3) for i in ids), ("",) * len(ids))


@pytest.mark.parametrize(
    ("function", "rule", "unit"),
    [
        ("priced", "scattered", "tokens"),
        ("uncounted", "scattered", "pairs"),
        ("linear", "auto", "rows"),
        ("free", "block", "pairs"),
        ("single", "block", "rows"),
        ("free-single", "block", "rows"),
    ],
)
def test_the_cost_structure_decides_the_design(function: str, rule: str, unit: str) -> None:
    c = config(function)
    assert label_rule(c) == rule
    assert label_costs(c, np.arange(9), np.arange(6), texts).unit == unit


def test_named_designs_win_except_where_there_is_one_column() -> None:
    for function in ("priced", "linear", "free"):
        for labels in ("block", "scattered", "all-targets"):
            assert label_rule(config(function, labels=labels)) == labels
    assert label_rule(config("single", labels="scattered")) == "block"
    assert label_rule(config("priced", labels="scattered", label_fraction=1)) == "block"


def test_tokens_are_means_over_a_sample() -> None:
    found = label_costs(config(), np.arange(9), np.arange(6), texts)
    assert found == Costs(row=61, pair=26, unit="tokens")
    with pytest.raises(ValueError, match="priced counts 0"):
        label_costs(config(), np.arange(9), np.arange(6), lambda ids, side: Rows(ids, ("",) * len(ids), ()))


def test_what_costs_nothing_is_computed_unless_learning_is_asked_for() -> None:
    for function in ("free", "free-single"):
        assert learning_pointless(config(function)) and label_fraction(config(function)) == 1
        for asked in ({"labels": "block"}, {"architecture": "ridge"}):
            c = config(function, **asked)
            assert not learning_pointless(c) and label_fraction(c) == 0.2
            assert label_rule(c) == "block"
    for function in ("priced", "linear", "single"):
        assert not learning_pointless(config(function))


def test_a_pointwise_block_is_a_share_of_the_rows() -> None:
    found = planned_labels(config("single", block_ratio=9.0), 60, 1)
    assert (found.kind, found.rows, found.columns, found.cost, found.unit) == ("block", 12, 1, 12, "rows")
    assert flat_costs(config("single")).of(12, 1, 12) == 12


@pytest.mark.parametrize(
    ("function", "asked", "expected"),
    [
        ("priced", {}, False),
        ("priced", {"label_fraction": 1}, True),
        ("free", {}, True),
        ("free", {"labels": "scattered"}, False),
        ("free-single", {}, True),
        ("free-single", {"architecture": "ridge"}, False),
        ("linear", {"labels": "all-targets"}, False),
    ],
)
def test_a_problem_knows_whether_everything_is_exact(
    tmp_path: Path, function: str, asked: dict[str, object], expected: bool
) -> None:
    p = problem(tmp_path, config(function, **asked))
    assert p.all_exact is expected
    assert len(p.rows) == ROWS and len(p.columns) == (1 if p.config.pointwise else COLUMNS)


def test_designs_are_shared_by_what_decides_them() -> None:
    keys = Keys("encoder", "function")
    family = {
        name: design_family(config("priced", **asked), keys)
        for name, asked in {
            "auto": {},
            "scattered": {"labels": "scattered"},
            "block": {"labels": "block"},
            "ratio": {"labels": "block", "block_ratio": 2.0},
            "all": {"label_fraction": 1},
            "all block": {"labels": "block", "label_fraction": 1},
        }.items()
    }
    assert family["auto"] == family["scattered"] and family["all"] == family["all block"]
    assert len(set(family.values())) == 4
    assert design_family(config("free"), keys) == family["all"], "learning is pointless: all is exact"


def test_only_functions_with_a_count_are_asked_for_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Priced, "token_costs", lambda *_: pytest.fail("no tokens are needed"))
    for function in ("linear", "free", "single"):
        label_costs(config(function), np.arange(9), np.arange(6), texts)
