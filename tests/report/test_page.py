"""The page: every number is its query's, nothing is missing, nothing of the data breaks the page."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from report.checks import alone, check_values, drawings, free_digits, section
from report.made import OTHER, POOL, RUN, TARGET, TEST, Maker
from report.trees import Node, parse

from nncift_core.errors import UserError
from nncift_core.records import Example
from nncift_core.report import comparison, outcome, record, render, trust
from nncift_core.store.workspace import Workspace


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    """Makes runs in a workspace of its own."""
    return Maker(tmp_path)


@dataclass
class Rendered:
    """A report, its text and its tree."""

    ws: Workspace
    html: str
    page: Node


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The report of a run with everything in it, and another run beside it; tests only read it."""
    maker = Maker(tmp_path_factory.mktemp("standard"))
    ws = maker.make(facts={"command": "nncift run 'a b.toml'"}, verdict="trusted").ws
    maker.make(OTHER, shift=3)
    maker.make("ffff", dataset="another pool")
    html = render(ws, RUN)
    return Rendered(ws, html, parse(html))


def test_every_number_comes_from_the_query_it_carries(standard: Rendered) -> None:
    assert check_values(standard.page, standard.ws) > 500
    assert free_digits(standard.page) == []
    assert all(t.attributes["data-sql"] for t in standard.page.all("table"))


@pytest.mark.parametrize("kind", [{"evaluated": False}, {"exact": True, "seeds": 1}])
def test_so_it_does_where_parts_are_missing(maker: Maker, kind: dict[str, Any]) -> None:
    made = maker.make(**kind)
    page = parse(render(made.ws, RUN))
    assert check_values(page, made.ws) > 200
    assert free_digits(page) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [('data-value="0.3333333333333333"', 'data-value="0.3333333"'), (">0.33</td>", ">0.44</td>")],
)
def test_the_check_finds_a_wrong_number(standard: Rendered, right: str, wrong: str) -> None:
    assert right in standard.html
    with pytest.raises(AssertionError):
        check_values(parse(standard.html.replace(right, wrong, 1)), standard.ws)


def test_the_check_finds_a_loose_number(standard: Rendered) -> None:
    assert free_digits(parse(standard.html.replace("<h3>", "<h3>12 ", 1))) == ["12 What the models answer"]


def test_the_first_screen_tells_the_outcome(standard: Rendered) -> None:
    head = standard.page.all("section")[0]
    lines = [li.text for li in head.all("li")]
    assert lines[0].startswith(
        "Trained on the selected rows, the model reaches a held-out loss of 1.400; "
        "on “random, as many rows”, 1.500"
    )
    assert "Gain +0.100 (+0.090 to +0.110 at 90 %). better" in lines[0]
    assert "random, as many tokens" in lines[1]
    assert lines[2].startswith("Estimates by kernel, judged on 100 exact values that it has not seen: ranks ")
    assert lines[2].endswith("against embedding cosine). trusted")
    assert lines[3] == "7 of 8 picks had a positive gain."
    assert [li.attributes["class"] for li in head.all("li")] == ["good", "good", "good", "open"]
    assert "24 pool rows were valued with delift against 6 target rows; 8 were chosen by flmi." in head.text


def test_sections_come_in_order_and_the_contents_lead_to_them(standard: Rendered) -> None:
    anchors = [s.attributes["id"] for s in standard.page.all("section")]
    assert anchors == [
        "outcome", "comparison", "quality", "subset", "influence", "costs", "warnings", "other-runs", "made",
    ]  # fmt: skip
    links = [a.attributes["href"] for a in standard.page.all("nav")[0].all("a")]
    assert links == [f"#{a}" for a in anchors[1:]]


def test_held_out_answers_show_best_middle_and_worst(standard: Rendered) -> None:
    cards = section(standard.page, "comparison").all("table", class_="cards")[0]
    texts = [[c.text for c in tr.all("td")] for tr in cards.all("tbody")[0].all("tr")]
    assert [t[0] for t in texts] == ["furthest ahead", "in the middle", "furthest behind"]
    assert [t[2] for t in texts] == ["test prompt 4", "test prompt 2", "test prompt 0"]
    assert texts[0][4:] == ["selected answer 4 seed 0", "random answer 4 seed 0", "base answer 4 seed None"]


def test_without_models_the_report_says_how_to_get_them(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = maker.make(evaluated=False).ws
    maker.make(OTHER, evaluated=False, facts={"adapter": "adapters/ab"})
    untrained = alone(comparison.comparison, ws, RUN, monkeypatch)
    assert tomllib.loads(untrained.all("pre")[0].text) == {"target": {"test": "test"}, "finetune": {}}
    unheld = alone(comparison.comparison, ws, OTHER, monkeypatch)
    assert "adapters/ab" in unheld.text
    assert tomllib.loads(unheld.all("pre")[0].text) == {"target": {"test": "test"}}
    for found in (untrained, unheld):
        assert found.all("table") == []


def test_all_exact_runs_say_so(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = maker.make(exact=True).ws
    assert "Every influence value is exact" in alone(trust.trust, ws, RUN, monkeypatch).text
    lines = alone(outcome.head, ws, RUN, monkeypatch).all("li")
    assert lines[2].text == "Every influence value is exact; nothing was estimated."


def test_estimates_without_any_rank_agreement_have_no_plot(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    quality = alone(trust.trust, maker.make(ranked=False).ws, RUN, monkeypatch)
    assert quality.all("table") and not quality.all("img")


def test_warnings_name_what_to_doubt(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"dropped_rows": 3, "test_rows_in_pool": 2, "duplicates": 0, "labels_kept_from_earlier_run": True}
    ws = maker.make(facts=facts, seeds=1).ws
    lines = [li.text for li in alone(record.warnings, ws, RUN, monkeypatch).all("li")]
    assert len(lines) == 6
    assert "3 rows were dropped as bad (on_bad_rows)." in lines
    assert any(line.startswith("2 held-out rows are also in the pool") for line in lines)
    assert any("by loss: one seed: no verdict" in line for line in lines)
    assert any("of Q4 by mlp: below a constant" in line for line in lines)
    assert "1 of the picks added nothing to the objective; a smaller subset covers as much." in lines
    assert any("earlier run were kept" in line for line in lines)


def test_a_run_without_warnings_says_none(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = maker.make(exact=True, idle=0, evaluated=False).ws
    assert [p.text for p in alone(record.warnings, ws, RUN, monkeypatch).all("p")] == ["None."]


def test_every_rival_that_beats_the_subset_is_named(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = maker.make(exact=True, idle=0).ws
    lines = [li.text for li in alone(record.warnings, ws, RUN, monkeypatch).all("li")]
    assert len(lines) == 3 and all("by ROUGE-1: worse" in line for line in lines)


def test_a_run_alone_on_its_pool_says_so(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = maker.make().ws
    maker.make("ffff", dataset="another pool")
    assert "No other run" in alone(record.other_runs, ws, RUN, monkeypatch).text


def test_other_runs_on_the_pool_are_compared(standard: Rendered) -> None:
    found = section(standard.page, "other-runs").all("table")[0]
    cells = [[c.text for c in tr.all("td")] for tr in found.all("tbody")[0].all("tr")]
    assert cells == [[OTHER, "delift", "names, sums", "24", "8", "5"]]


def test_the_config_can_be_run_again(standard: Rendered) -> None:
    pres = [p.text for p in section(standard.page, "made").all("pre")]
    assert pres[0] == "nncift run 'a b.toml'"
    config = tomllib.loads(pres[1])
    assert config["influence"]["delift"] == {"template_with": 'A "{prompt}"\n'}
    assert "evaluation" not in config, "refused without a [finetune] section"
    assert "torch  2.13.0" in pres[2]


def test_each_table_has_its_command(standard: Rendered) -> None:
    commands = [p.text for p in standard.page.all("pre") if p.text.startswith("nncift query")]
    tables = standard.page.all("table")
    assert len(commands) == len(tables) > 12
    for command, table in zip(commands, tables, strict=True):
        sql, run = table.attributes["data-sql"], table.attributes.get("data-run", RUN)
        assert shlex.split(command) == ["nncift", "query", sql, "--run", run, "--workspace", "my ws"]
        assert not re.search(r"[$`!\\]", sql), "would mean something to a shell"


def test_the_page_needs_nothing_from_elsewhere(standard: Rendered) -> None:
    page = standard.page
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    policy = [m.attributes["content"] for m in page.all("meta") if "http-equiv" in m.attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert page.all("meta", name="viewport")
    for node in page.all():
        for name, value in node.attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "href") or value.startswith(("data:image/svg+xml;base64,", "#"))
    assert "url(" not in page.all("style")[0].text
    assert len(page.all("img")) == 11
    assert all(i.attributes["alt"] for i in page.all("img"))
    assert all("<svg" in svg for svg in drawings(page))


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(standard: Rendered, tmp_path: Path) -> None:
    root = tmp_path / standard.ws.root.name
    shutil.copytree(standard.ws.root, root)
    assert render(Workspace.open(root), RUN) == standard.html
    assert str(standard.ws.root.parent) not in standard.html


HOSTILE = (
    "<script>alert(1)</script>",
    "</style></section></main><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }} {% for x in y %} {# #}",
    "a\x00b\x1b[31mc\x07d\x85e",
    "left\u202egnp.exe\u2066 \ufeff",
    "$x_{1}$ \\frac{a}{b} $",
    "' OR 1=1; -- \" `id` $(id)",
    "]]> --> <!-- &amp; &lt;",
    "x" * 200_000,
    "日本語 עברית \U0001f600 \ue000",
)


UNSAFE = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"


def test_hostile_texts_stay_texts(maker: Maker) -> None:
    def poison(n: int) -> list[Example]:
        texts = [HOSTILE[k % len(HOSTILE)] for k in range(n)]
        return [Example(f"{t}{k}", f"{k}{t}", k, source=t, task=t, source_id=t) for k, t in enumerate(texts)]

    given = {"pool": poison(POOL), "target": poison(TARGET), "test": poison(TEST)}
    name = "</table>" + "".join(HOSTILE[:7])
    facts = {"command": " ".join(HOSTILE), "subset": HOSTILE[0]}
    config = {"pool": {"source": HOSTILE[0] + HOSTILE[4], "columns": {"prompt": HOSTILE[6]}}}
    made = maker.make(rows=given, dataset=name, facts=facts, config=config, verdict="weak")
    maker.make(OTHER, rows=given, dataset=name)
    html = render(made.ws, RUN)
    page = parse(html)
    assert page.all("section")[-1].attributes["id"] == "made"
    assert page.all("script") == []
    assert (len(page.all("img")), len(page.all("style"))) == (11, 1)
    assert not re.search(UNSAFE, html)
    assert len(html) < 1_500_000
    assert "{{ 7 * 7 }} {% for x in y %}" in section(page, "subset").text
    assert check_values(page, made.ws) > 500
    assert free_digits(page) == []
    for svg in drawings(page):
        parse(svg)
        assert not re.search(UNSAFE, svg)
    assert "$x_{1}$" in "".join(drawings(page)), "labels are no formulas"


def test_a_run_without_a_result_is_refused(maker: Maker) -> None:
    made = maker.make()
    made.ws.result_file(RUN).unlink()
    with pytest.raises(UserError, match="no result"):
        render(made.ws, RUN)


def test_more_sources_than_fit_are_counted(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = [replace(Example(f"p {k}", "r", k), source=f"s{k:02d}") for k in range(24)]
    subset = alone(outcome.subset, maker.make(rows={"pool": pool}).ws, RUN, monkeypatch)
    assert "24 in all; the table names the most chosen." in subset.text
    assert len(subset.all("table")[0].all("tbody")[0].all("tr")) == 20
