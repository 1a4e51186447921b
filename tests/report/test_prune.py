"""The page of a prune run: its numbers are their queries', refusals are told, parts may be missing."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from report.checks import check_values, drawings, free_digits, section
from report.made import RUN as VALUED
from report.made import Maker
from report.made_prune import RUN, PruneMaker
from report.test_page import HOSTILE, UNSAFE
from report.trees import Node, parse

from nncift_core.errors import UserError
from nncift_core.report import prune, prune_curves, prune_noise, prune_scores, values
from nncift_core.report.prune import render_prune
from nncift_core.report.prune_plots import Curve
from nncift_core.report.queries import Data
from nncift_core.store.runs import attempt
from nncift_core.store.workspace import Workspace

ANCHORS = [
    "outcome", "curves", "harm", "noise", "suspects", "scores", "learned", "findings", "costs", "made",
]  # fmt: skip


@dataclass
class Rendered:
    """A page, its text and its tree."""

    ws: Workspace
    html: str
    page: Node


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The page of a run with everything in it; tests only read it."""
    ws = PruneMaker(tmp_path_factory.mktemp("pruned"), per_class=9).make()
    html = render_prune(ws, RUN)
    return Rendered(ws, html, parse(html))


def one(make: Any, ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> Node:
    """One section of the page, without the time that the others take."""
    monkeypatch.setattr(prune, "SECTIONS", (make,))
    return parse(render_prune(ws, RUN)).all("section")[0]


def rows_of(table: Node) -> list[list[str]]:
    """The texts of a table's cells."""
    return [[td.text for td in tr.all("td")] for tr in table.all("tbody")[0].all("tr")]


def test_every_number_comes_from_the_query_it_carries(standard: Rendered) -> None:
    assert check_values(standard.page, standard.ws) > 2000
    assert free_digits(standard.page) == []
    commands = [p.text for p in standard.page.all("pre") if p.text.startswith("nncift query")]
    assert len(commands) == len(standard.page.all("table"))
    for command in commands:
        assert len(shlex.split(command)) == 7
        assert not re.search(r"[$`!\\]", command), "would mean something to a shell"


def test_sections_come_in_order_and_the_contents_lead_to_them(standard: Rendered) -> None:
    assert [s.attributes["id"] for s in standard.page.all("section")] == ANCHORS
    links = [a.attributes["href"] for a in standard.page.all("nav")[0].all("a")]
    assert links == [f"#{a}" for a in ANCHORS[1:]]


def test_the_page_needs_nothing_from_elsewhere(standard: Rendered) -> None:
    assert standard.page.all("script") == standard.page.all("link") == []
    assert "url(" not in standard.page.all("style")[0].text
    for image in standard.page.all("img"):
        assert image.attributes["src"].startswith("data:image/svg+xml;base64,") and image.attributes["alt"]


@pytest.mark.parametrize("sections", [1, pytest.param(None, marks=pytest.mark.heavy)])
def test_the_same_run_gives_the_same_bytes_wherever_it_lies(
    sections: int | None, standard: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / standard.ws.root.name
    shutil.copytree(standard.ws.root, root)
    assert str(standard.ws.root.parent) not in standard.html
    html = standard.html
    if sections:
        monkeypatch.setattr(prune, "SECTIONS", prune.SECTIONS[1 : 1 + sections])
        html = render_prune(standard.ws, RUN)
        assert section(parse(html), "curves").all("img")
    assert render_prune(Workspace.open(root), RUN) == html


def test_the_first_screen_tells_the_recommendation(standard: Rendered) -> None:
    head = section(standard.page, "outcome")
    lines = [(li.attributes["class"], li.text) for li in head.all("li")]
    words = "Prune 10 % by el2n from the easy end: expected change +0.1 +- 0.3 points."
    assert lines[0] == ("good", f"{words} prune")
    assert lines[1][1].startswith("The subset of 21 rows lies in runs/")
    assert lines[2][1] == "Claims of the paper checked on this data: 3; they hold in 1 cases and fail in 1."
    assert lines[3][1].startswith("2 texts were longer than the encoder")
    assert "36 labelled rows of 4 classes" in head.text and "accuracy of 0.900" in head.text
    assert rows_of(head.all("table")[0])[0] == ["train", "mine", "36", "4", "2"]


@pytest.mark.parametrize("verdict", ["keep all", "no score beats random"])
def test_anything_but_prune_is_told_as_a_refusal(
    verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "keep all rows: random rows do as well as every score"
    told = {"recommendation_verdict": verdict, "recommendation": why, "mode": "full", "subset": ""}
    ws = PruneMaker(tmp_path).make(studies=(), others=False, facts=told)
    head = one(prune.head, ws, monkeypatch)
    first = head.all("li")[0]
    assert first.text == f"No pruning is recommended: {why}. {verdict}"
    assert first.attributes["class"] == "bad"
    assert "stays frozen" not in head.text and "subset" not in head.text


def test_a_run_of_which_nothing_was_studied_says_so_without_empty_plots(tmp_path: Path) -> None:
    ws = PruneMaker(tmp_path).make(studies=(), others=False)
    page = parse(render_prune(ws, RUN))
    said = {a: section(page, a) for a in ANCHORS[1:8]}
    for anchor, words in (
        ("curves", "No pruning curve was studied"), ("harm", "Neither a pruning curve nor class imbalance"),
        ("noise", "Label noise was not studied"), ("suspects", "No label was put under suspicion"),
        ("scores", "No score was measured"), ("learned", "No score was learned"),
        ("findings", "claims were not checked"),
    ):  # fmt: skip
        assert words in said[anchor].text
        assert said[anchor].all("img") == said[anchor].all("table") == []
    assert check_values(page, ws) > 20 and free_digits(page) == []


def test_cut_offs_and_sampling_by_chance_are_drawn_apart(standard: Rendered) -> None:
    (svg,) = drawings(section(standard.page, "curves"))
    for words in ("easy end, cut-off", "hard end, cut-off", "easy end, by chance", "softmax", "linear"):
        assert words in svg
    assert "hard end, by chance" not in svg, "nothing was sampled there"
    assert "all rows" in svg and "random rows" in svg


def test_values_that_are_missing_are_left_out_of_lines_and_panels() -> None:
    shared = {"line": "random rows", "sampling": "", "pruned_end": "", "spread": 0.1}
    scored = {"line": "aum", "sampling": "cut", "pruned_end": "hard", "spread": None}
    made = [{**shared, "pruned": 0.1, "accuracy": 0.5}, {**scored, "pruned": 0.1, "accuracy": 0.4}]
    missing = [
        {**scored, "pruned": 0.3, "accuracy": None},
        {**scored, "pruned_end": "easy", "accuracy": None},
    ]
    found = Data("", [*made, *missing])
    assert prune_curves.panels_of(found, "accuracy", ("cut",), "", "spread") == {
        "hard end": [
            Curve("aum", "cut", ((0.1, 0.4, None),)),
            Curve("random rows", "", ((0.1, 0.5, 0.1),)),
        ]
    }
    assert prune_curves.panels_of(found, "accuracy", ("softmax",), "") == {}


def test_the_best_subset_of_each_share_stands_beside_random_rows(standard: Rendered) -> None:
    best = rows_of(section(standard.page, "curves").all("table")[1])
    assert best[0][:2] == ["0.0 %", "all rows"]
    assert [r[0] for r in best[1:]] == ["10.0 %"] * 3 + ["50.0 %"] * 3
    for share in ("10.0 %", "50.0 %"):
        names = {r[1] for r in best if r[0] == share}
        (scored,) = names - {"random rows", "stratified rows"}
        assert scored.endswith("easy end"), "pruning hard was made to cost more"
        gains = [r[5] for r in best if r[0] == share]
        assert gains.count("–") == 1, "random rows gain nothing over themselves"


def test_harm_names_the_classes_and_groups_that_pay(standard: Rendered) -> None:
    harm = section(standard.page, "harm")
    assert [t.text for t in harm.all("h3")] == ["On the pruning curve", "Class imbalance"]
    by_first = {t.all("th")[2].text: t for t in harm.all("table")}
    classes, groups = rows_of(by_first["class"]), rows_of(by_first["group"])
    assert [r[2] for r in classes[:4]] == ["class 3", "class 2", "class 1", "class 0"]
    assert classes[0][3:] == ["5", "0.901", "0.897", "-0.003", "0.000"]
    assert {r[2] for r in groups} == {"phone", "web"}
    assert "worst group" in harm.text and "was not studied" not in harm.text


def test_without_groups_none_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = PruneMaker(tmp_path, groups=("",)).make(studies=("curve",))
    harm = one(prune_curves.harm, ws, monkeypatch)
    assert "group" not in [th.text for th in harm.all("th")] and "worst group" not in harm.text
    assert "Class imbalance was not studied" in harm.text


def test_the_noise_table_has_means_and_spreads_over_seeds(standard: Rendered) -> None:
    noise = section(standard.page, "noise")
    titles = ["Labels flipped to the nearest class", "Labels flipped to any class"]
    assert [t.text for t in noise.all("h3")] == titles
    assert "At a rate of 10.0 %, 10 labels were wrong on average over 2 seeds." in noise.text
    found = rows_of(noise.all("table")[0])
    assert found[0] == ["vog-embedding", "0.740", "0.014", "0.990", "0.000", "90.0 %", "0.000", "2"]
    best = noise.all("table")[2]
    assert best.all("th")[-1].text == "planted left"
    assert (rows_of(best)[0][-1], rows_of(best)[-1][-1]) == ("3.6", "1.8")


def test_suspects_come_with_their_texts(
    standard: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = section(standard.page, "suspects")
    assert f"All 36 are in runs/{RUN}/suspects.csv" in single.text
    cards = rows_of(single.all("table", class_="cards")[0])
    assert len(cards) == 30
    assert cards[1] == [
        "2", "1", "class 1", "class 2", "0.003", "0.989", "80.0 %", "train 1: wake me at 7",
    ]  # fmt: skip
    ws = PruneMaker(tmp_path, pairs=True).make(studies=(), facts={"suspects_csv": ""})
    pair = one(prune_noise.suspects, ws, monkeypatch)
    assert rows_of(pair.all("table")[0])[1][-2:] == ["train 1: wake me at 7", "so it is 1"]
    assert "24 rows are in the view suspects" in pair.text


def test_scores_are_drawn_by_class_and_in_their_default_variant(standard: Rendered) -> None:
    scores = section(standard.page, "scores")
    assert "5 scores of 36 rows." in scores.text
    histograms = rows_of(scores.all("table")[0])
    for name in ("vog-embedding", "el2n", "aum", "confidence", "variability"):
        counts = [[int(x) for x in r[3:]] for r in histograms if r[0] == name]
        assert [sum(c) for c in zip(*counts, strict=True)] == [36, 9, 9, 9, 9], "one variant, all classes"
    which = rows_of(scores.all("table")[1])
    assert [r[0] for r in which] == ["hardest"] * 4 and which[0][1] in drawings(scores)[0]
    assert float(which[0][3]) > float(which[-1][3])
    svgs = drawings(scores)
    assert "variability" in svgs[1] and "label mostly ahead" in svgs[1]
    assert "the easy tails" in svgs[2] and "the hard tails" in svgs[2]


def test_two_classes_of_equal_scores_still_make_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = PruneMaker(tmp_path, classes=2, per_class=2, scores=("forgetting",))
    monkeypatch.setattr(
        maker, "_scores",
        lambda ids: [
            {"function": "forgetting", "task": None, "variant": "count", "seed": None, "origin": "exact",
             "train_id": i, "score": 0.0}
            for i in ids
        ],
    )  # fmt: skip
    scores = one(prune_scores.scores, maker.make(studies=()), monkeypatch)
    assert rows_of(scores.all("table")[0]) == [["forgetting", "0", "1", "4", "2", "2", "0", "0"]]
    assert "no data map" in scores.text and "Where scores agree" not in scores.text


def test_learned_scores_stand_beside_baselines_with_verdicts(standard: Rendered) -> None:
    learned = section(standard.page, "learned")
    judged, every = (rows_of(t) for t in learned.all("table"))
    assert [r[1] for r in judged] == ["kernel"] * 5 and len(every) == 20
    assert judged[0][-2:] == ["refused", "class mean does as well"]
    assert judged[1][-2:] == ["trusted", "it ranks best"] and every[1][-2:] == ["–", "–"]
    verdicts = [td.attributes["class"] for td in learned.all("table")[0].all("td")][9::11]
    assert verdicts == ["verdict bad"] + ["verdict good"] * 4
    (svg,) = drawings(learned)
    assert "el2n: kernel" in svg and "el2n: class mean" in svg and "el2n: embedding cosine" not in svg


def test_claims_are_told_with_how_they_came_out(standard: Rendered) -> None:
    lines = section(standard.page, "findings").all("li")
    ends = [(li.attributes["class"], li.all("strong")[0].text) for li in lines]
    assert ends == [("good", "yes"), ("bad", "no"), ("open", "unclear"), ("open", "not studied")]
    assert lines[0].text.startswith("Pruning the hard end hurts on clean data. Change -0.02 at 50 % dropped.")


def test_costs_and_the_making_are_told(standard: Rendered) -> None:
    stages = {r[0] for r in rows_of(section(standard.page, "costs").all("table")[0])}
    assert stages == {"ingest", "embed", "train-classifiers", "prune-study"}
    pres = [p.text for p in section(standard.page, "made").all("pre")]
    assert pres[0] == "nncift prune 'a b.toml'"
    assert 'source = "train.jsonl"' in pres[1] and "torch  2.13.0" in pres[2]
    assert prune.SECTIONS[-2] is values.costs


def test_hostile_texts_stay_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The others show nothing of the user's.
    telling = (prune.head, prune_curves.harm, prune_noise.suspects, prune_scores.scores, prune.made)
    monkeypatch.setattr(prune, "SECTIONS", telling)
    maker = PruneMaker(
        tmp_path, classes=9, per_class=4, shares=(0.3,), texts=HOSTILE, groups=HOSTILE[:3], pairs=True,
        names=(HOSTILE[5], *HOSTILE[:5], *HOSTILE[6:9]), scores=("aum", "confidence", "variability"),
    )  # fmt: skip
    told = {"recommendation": HOSTILE[0] + HOSTILE[2], "encoder": HOSTILE[1], "command": " ".join(HOSTILE)}
    told |= {"subset": HOSTILE[0], "suspects_csv": HOSTILE[3]}
    config = {"data": {"source": HOSTILE[0] + HOSTILE[4], "columns": {"text": HOSTILE[6]}}}
    html = render_prune(maker.make(studies=("curve",), facts=told, config=config), RUN)
    page = parse(html)
    assert page.all("section")[-1].attributes["id"] == "made"
    assert page.all("script") == [] and len(page.all("style")) == 1
    assert not re.search(UNSAFE, html) and len(html) < 1_500_000
    assert "{{ 7 * 7 }} {% for x in y %}" in section(page, "suspects").text
    assert check_values(page, maker.ws) > 500 and free_digits(page) == []
    for svg in drawings(page):
        parse(svg)
        assert not re.search(UNSAFE, svg)
    assert "hardest: $x_{1}$" in "".join(drawings(page)), "labels are no formulas"


def test_a_run_without_a_result_and_one_of_another_kind_are_refused(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    maker.make()
    with pytest.raises(UserError, match="no prune run"):
        render_prune(maker.ws, VALUED)
    with attempt(maker.ws, RUN, {}, {}):
        pass
    with pytest.raises(UserError, match="no result yet"):
        render_prune(maker.ws, RUN)
