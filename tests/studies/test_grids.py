"""Which cells a study has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nncift_core.config_sections import CHEAP, FEATURE_GROUPS, LEARNED
from nncift_core.estimator.contract import BM25, EMBEDDING, Features
from nncift_core.estimator.pair_features import Table
from nncift_core.studies import Fit, Grid
from nncift_core.studies.grids import without

GRID = Grid("kernel", budget=0.05, design="scattered", share=0.3, hidden=100, seeds=(0, 1, 2))


def test_figures_vary_labels_and_widths_on_blocks() -> None:
    cells = GRID.cells("figures")
    curves = [c for c in cells if c.setting == "labels"]
    assert len(curves) == (3 + len(CHEAP)) * 4 * 3 and len(cells) - len(curves) == 2 * 4 * 3
    assert {c.fit.design for c in cells} == {"block"}
    assert {c.fractions for c in curves} == {(0.05, 0.1, 0.3)}
    sizes = {(c.fit.predictor, c.fit.hidden) for c in cells if c.setting.startswith("hidden")}
    assert sizes == {(name, w) for name in ("mlp", "mlp-paper") for w in (5, 20, 100, 500)}
    # Width changes nothing but networks, so it must not tell other fits apart.
    assert {c.fit.hidden for c in curves if c.fit.predictor not in ("mlp", "mlp-paper")} == {0}


def test_the_tournament_has_every_estimator_under_every_design_on_one_budget() -> None:
    cells = GRID.cells("estimators")
    assert {c.fit.u for c in cells} == {0.05} and {c.fractions for c in cells} == {(0.3,)}
    tournament = {(c.fit.predictor, c.fit.design, c.fit.seed) for c in cells if c.setting == "tournament"}
    assert len(tournament) == (len(LEARNED) + len(CHEAP)) * 3 * 3
    dropped = [c for c in cells if c.setting != "tournament"]
    assert {c.setting for c in dropped} == {f"without {g}" for g in FEATURE_GROUPS}
    assert {(c.fit.predictor, c.fit.design) for c in dropped} == {("kernel", "scattered")}
    assert len(cells) <= 500 and len(GRID.cells("figures")) <= 500


def test_the_jobs_own_design_and_estimator_stand_even_where_they_are_not_asked_for() -> None:
    cells = replace(GRID, designs=("block",), architectures=("ridge",)).cells("estimators")
    assert {c.fit.design for c in cells if c.setting == "tournament"} == {"block", "scattered"}
    assert {c.fit.predictor for c in cells if c.setting == "tournament"} == {"ridge", "kernel", *CHEAP}


def test_equal_fits_in_two_places_are_one_fit() -> None:
    cells = replace(GRID, hidden=20).cells("figures")
    both = [c for c in cells if c.fit == Fit("mlp", "block", 0.05, 0, 20)]
    assert [c.setting for c in both] == ["labels", "hidden 20"]


def test_a_group_goes_with_its_pair_features() -> None:
    x = np.ones((3, 2), np.float32)
    pairs = {BM25: Table(x), "embedding cosine": Table(x)}
    features = Features(np.arange(3), np.arange(2), {EMBEDDING: x}, {EMBEDDING: x[:2]}, pairs)
    assert set(without(features, "embedding").pairs) == {BM25}
    assert without(features, "embedding").rows == {} and without(features, "") is features
    with pytest.raises(ValueError, match="no feature group 'proxy'"):
        without(features, "proxy")
