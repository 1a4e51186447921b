""" "Can you trust this?" under every verdict and label design, and what other sections say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report import made_trust
from report.checks import alone, check_values, drawings, free_digits, section
from report.made import POOL, RUN, TARGET, Maker
from report.trees import Node, parse

from nncift_core.report import outcome, plots, record, render, trust, values
from nncift_core.report import page as page_module
from nncift_core.report.queries import Reader
from nncift_core.store.query import rows
from nncift_core.store.workspace import Workspace


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    """Makes runs in a workspace of its own."""
    return Maker(tmp_path)


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Node]:
    """A run whose estimates are trusted, and the section on them; tests only read it."""
    ws = Maker(tmp_path_factory.mktemp("trusted")).make(verdict="trusted", evaluated=False).ws
    return ws, section(parse(render(ws, RUN)), "quality")


def texts(found: Node, tag: str) -> list[str]:
    return [node.text for node in found.all(tag)]


def cells(table: Node) -> list[list[str]]:
    return [texts(row, "td") for row in table.all("tbody")[0].all("tr")]


def of(found: Node, column: str) -> Node:
    """The first table with that column."""
    return next(t for t in found.all("table") if column in texts(t, "th"))


KINDS: tuple[dict[str, Any], ...] = (
    {"verdict": "weak"},
    {"verdict": "refused"},
    {"verdict": "weak", "design": "scattered"},
    {"verdict": "trusted", "design": "all-targets"},
    {"verdict": "trusted", "pointwise": True, "design": "all-targets"},
    {"verdict": "refused", "audit_pairs": 5},
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_comes_from_its_query(
    maker: Maker, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = maker.make(evaluated=False, **kind).ws
    makers = (outcome.head, trust.trust, values.influence, record.warnings)
    monkeypatch.setattr(page_module, "SECTIONS", makers)
    page = parse(render(ws, RUN))
    assert check_values(page, ws) > 500
    assert free_digits(page) == []


def test_a_trusted_run_shows_all_that_the_trust_rests_on(trusted: tuple[Workspace, Node]) -> None:
    found = trusted[1]
    assert texts(found, "h3") == [
        "Predicted against exact", "Estimates beside exact values", "By target task", "Why this estimator",
        "How far off an estimate may be", "What each feature group bought", "What more labels would bring",
        "The labels", "Exact values where it matters",
    ]  # fmt: skip
    assert len(found.all("img")) == 4
    verdict, used = found.all("ul")[0].all("li")
    assert verdict.attributes["class"] == "good"
    assert [b.text for b in verdict.all("strong")] == ["trusted"]
    assert made_trust.REASONS["trusted"] in verdict.text
    assert used.text == "What is not exact is estimated by kernel."


def test_quality_tells_the_whole_first_and_then_the_parts(trusted: tuple[Workspace, Node]) -> None:
    whole = cells(of(trusted[1], "centred"))
    assert [row[0] for row in whole][:2] == ["kernel", "means"]
    assert whole[0][1] == "estimator" and whole[-1][0] == "constant"
    parts = cells(of(trusted[1], "part"))
    assert [row[0] for row in parts] == ["Q1", "Q2", "Q3", "Q4"]
    assert {row[1] for row in parts} == {"kernel"}
    by_task = cells(of(trusted[1], "task"))
    assert [row[:2] for row in by_task] == [
        [task, part] for task in ("names", "sums") for part in ("all pairs", "Q4")
    ]


def test_candidates_stand_beside_what_chose_among_them(trusted: tuple[Workspace, Node]) -> None:
    found = of(trusted[1], "criterion")
    assert texts(found, "th")[3:7] == ["criterion", "centred", "pooled", "recall of rule"]
    assert [row[1] for row in cells(found)] == ["kernel", "ridge", "mlp"]
    assert cells(found)[0][3:7] == ["0.41", "0.41", "0.31", "0.21"]
    assert cells(found)[2][3:] == ["–", "–", "–", "–", "1.5", "needs a feature group of rows"]
    assert "kernel ranks held-out rows best (0.412), before ridge (0.377)" in trusted[1].text


def test_tenths_and_coverage_are_those_of_the_audit(trusted: tuple[Workspace, Node]) -> None:
    ws, found = trusted
    audit = sorted(rows(ws, "SELECT predicted, exact FROM audit", RUN), key=lambda r: r["predicted"])
    tenths = of(found, "mean predicted")
    exact = [float(td.attributes["data-value"]) for td in tenths.all("td")[3::4]]
    assert exact == pytest.approx(
        [sum(r["exact"] for r in audit[k : k + 10]) / 10 for k in range(0, 100, 10)]
    )
    inside = sum(abs(r["exact"] - r["predicted"]) <= 0.0125 for r in audit)
    assert 80 < inside < 100
    assert f"; {inside}.0 % of them lie inside" in found.text


def test_studies_and_rounds_are_told(trusted: tuple[Workspace, Node]) -> None:
    found = trusted[1]
    assert [row[0] for row in cells(of(found, "left out"))] == ["nothing", "forward", "embedding"]
    assert "With 60 labels the rank agreement is 0.50; 120 labels would bring about 0.57" in found.text
    assert [row[:2] for row in cells(of(found, "point"))][-1] == ["120", "extrapolated"]
    assert "60 exact values were computed as labels, by the design “block”" in found.text
    assert ", at a cost of 123,456 tokens." in found.text
    assert cells(of(found, "Jaccard")) == [["1", "12", "2", "2", "0.80"], ["2", "12", "1", "1", "1.00"]]


def test_a_refusal_stands_on_the_first_screen_and_among_the_warnings(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = maker.make(verdict="refused", evaluated=False, idle=0).ws
    for make in (outcome.head, record.warnings, trust.trust):
        lines = [li for li in alone(make, ws, RUN, monkeypatch).all("li") if "bad" in li.attributes["class"]]
        assert [s.text for s in lines[0].all("strong")] == ["refused"]
        assert made_trust.REASONS["refused"] in lines[0].text
        assert "filled by the cheap baseline “means” instead" in lines[1].text
        assert len(lines) == 2
    quality = alone(trust.trust, ws, RUN, monkeypatch)
    assert "lie inside their interval" not in quality.text, "the audit holds no pair of the baseline"


def test_weak_estimates_are_a_warning_and_so_are_their_parts(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = maker.make(verdict="weak", evaluated=False, idle=0).ws
    lines = texts(alone(record.warnings, ws, RUN, monkeypatch), "li")
    assert len(lines) == 3
    assert lines[0].endswith("R2 0.02). weak")
    assert lines[2] == "The estimates of Q3 by kernel: no better than embedding cosine"
    assert [li.attributes["class"] for li in alone(outcome.head, ws, RUN, monkeypatch).all("li")][1] == "open"


def test_trusted_estimates_warn_of_their_weak_parts_only(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = maker.make(verdict="trusted", evaluated=False, idle=0).ws
    assert texts(alone(record.warnings, ws, RUN, monkeypatch), "li") == [
        "The estimates of Q3 by kernel: no better than embedding cosine"
    ]


def test_a_refusal_without_any_audit_is_told_from_the_facts(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = made_trust.facts("refused", "block", 0) | {
        "estimator_reason": "only 0 audit pairs measure kernel", "estimator_used": "constant",
        "interval_half_width": None,
    }  # fmt: skip
    ws = maker.make(exact=True, evaluated=False, facts=known).ws
    page = parse(render(ws, RUN))
    lines = texts(section(page, "outcome"), "li")
    assert lines[1].endswith("that it has not seen: only 0 audit pairs measure kernel. refused")
    assert "A constant ranks nothing" in lines[2]
    assert texts(section(page, "quality"), "h3") == ["Why this estimator", "The labels"]
    assert check_values(page, ws) > 100 and free_digits(page) == []


def test_scattered_labels_make_no_quadrants(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = maker.make(verdict="weak", design="scattered", evaluated=False).ws
    found = alone(values.influence, ws, RUN, monkeypatch)
    third = POOL * TARGET // 3
    assert [row[:3] for row in cells(found.all("table")[0])] == [
        ["scattered", "exact", f"{third}"], ["scattered", "estimated", f"{2 * third}"],
    ]  # fmt: skip
    assert "Q1" not in found.text and "there are no quadrants" in found.text
    assert texts(found.all("table")[1], "th")[2:] == ["scattered exact", "scattered estimated"]
    counts = [[int(c) for c in row[2:]] for row in cells(found.all("table")[1])]
    assert [sum(column) for column in zip(*counts, strict=True)] == [third, 2 * third]
    quality = alone(trust.trust, ws, RUN, monkeypatch)
    assert [row[0] for row in cells(of(quality, "part"))] == ["labels", "unseen"]
    assert "of unseen by" not in alone(record.warnings, ws, RUN, monkeypatch).text


def test_values_of_a_baseline_are_called_so(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = maker.make(verdict="refused", evaluated=False).ws
    found = alone(values.influence, ws, RUN, monkeypatch)
    assert [row[:2] for row in cells(found.all("table")[0])] == [
        ["Q1", "exact"], ["Q2", "baseline"], ["Q3", "baseline"], ["Q4", "baseline"],
    ]  # fmt: skip
    assert "What is not exact is filled by the cheap baseline “means”." in found.text
    assert "baseline" in drawings(found)[0]


def test_a_pointwise_run_speaks_of_rows(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = maker.make(verdict="trusted", pointwise=True, design="all-targets", evaluated=False).ws
    quality = alone(trust.trust, ws, RUN, monkeypatch)
    assert "Q1 are labelled rows (fitted), Q3 other rows." in quality.text
    assert "target" not in quality.all("p")[1].text and "view influence" not in quality.text
    assert "estimated from features of the row" in alone(values.influence, ws, RUN, monkeypatch).text


def test_where_learning_is_pointless_the_report_says_why(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = maker.make(exact=True, idle=0, evaluated=False, facts={"learning_pointless": 1}).ws
    why = "exact values cost next to nothing here, so all were computed and nothing was learned."
    for make in (outcome.head, trust.trust):
        assert f"Every influence value is exact: {why}" in alone(make, ws, RUN, monkeypatch).text
    assert texts(alone(record.warnings, ws, RUN, monkeypatch), "li") == [f"E{why[1:]}"]


def test_few_audit_pairs_have_a_plot_and_no_tenths(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = maker.make(verdict="weak", audit_pairs=5, evaluated=False).ws
    found = alone(trust.trust, ws, RUN, monkeypatch)
    assert len(cells(of(found, "exact"))) == 5
    assert all("mean predicted" not in texts(t, "th") for t in found.all("table"))


def test_many_audit_pairs_share_dots_and_none_is_lost(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = maker.make(verdict="trusted", audit_pairs=5000, evaluated=False).ws
    dots = cells(of(alone(trust.trust, ws, RUN, monkeypatch), "exact"))
    assert 100 < len(dots) < 900
    assert sum(int(row[2].replace(",", "")) for row in dots) == 5000


@pytest.mark.parametrize(("x", "y"), [([0.0] * 3, [1.0, 2.0, 3.0]), ([2.0], [2.0]), ([0.0], [0.0])])
def test_the_scatter_is_drawn_of_values_that_do_not_vary(x: list[float], y: list[float]) -> None:
    assert plots.scatter(x, y, [1] * len(x), ("predicted", "exact")).startswith("data:image/svg+xml")


def test_a_result_from_before_the_gate_still_shows_its_parts(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = maker.make(evaluated=False).ws
    found = alone(trust.trust, ws, RUN, monkeypatch)
    assert texts(found, "h3") == ["Estimates beside exact values"]
    assert [row[:2] for row in cells(found.all("table")[0])][:2] == [["Q1", "mlp"], ["Q1", "constant"]]
    assert (
        alone(outcome.head, ws, RUN, monkeypatch)
        .all("li")[1]
        .text.endswith("(Q4): below a constant (R2 <= 0)")
    )
    assert not Reader(ws, RUN).pointwise
