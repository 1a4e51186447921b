"""`nncift report` on a sweep: its page, as `nncift sweep` writes it."""

from __future__ import annotations

from typing import Any

import pytest
from report.made import RUN, Maker
from report.trees import parse

from nncift_core.errors import UserError
from nncift_core.pipeline.report import report_of
from nncift_core.report import render_sweep
from nncift_core.store.runs import attempt, publish_table
from nncift_core.store.sweeps import publish_sweep
from nncift_core.store.views import rows_table
from nncift_core.store.workspace import Workspace

SWEEP = "5eeb5eeb5eeb5eeb"


def swept(ws: Workspace) -> None:
    """A finished sweep: two predictors of known quality under one draw of labels."""
    shared: dict[str, Any] = {
        "run_id": SWEEP, "function": "delift", "study": "estimators", "setting": "tournament",
        "design": "block", "u": 0.2, "v": None, "seed": 0, "note": None,
    }  # fmt: skip
    rows = [
        {**shared, "predictor": name, "quadrant": "Q4", "metric": "spearman", "value": value}
        for name, value in (("ridge", 0.75), ("constant", None))
    ]
    rows += [{**r, "quadrant": "unseen"} for r in rows]
    with attempt(ws, SWEEP, {}, {}) as current:
        table = rows_table("sweep", rows)
        path = publish_table(ws, SWEEP, "sweep", "key", table, producer="sweep", parents=())
        facts = {"rows": 12, "columns": 5, "rule": "flmi"}
        shown = {"run_id": SWEEP, "study": "estimators", "function": "delift", "facts": facts}
        publish_sweep(current, {**shown, "tables": {"sweep": path}})


def test_a_sweep_has_its_page(tmp_path: Any) -> None:
    ws = Maker(tmp_path).ws
    swept(ws)
    found = report_of(ws, SWEEP[:4])
    assert found.run_id == SWEEP and found.path == ws.report_file(SWEEP)
    html = found.path.read_text(encoding="utf-8")
    assert html == render_sweep(ws, SWEEP)
    page = parse(html)
    assert page.all("h1")[0].text == "Which estimator, which features, which labels"
    assert page.all("title")[0].text == f"nncift sweep {SWEEP}" and not page.all("nav")
    cells = [td.text for td in page.all("table")[0].all("td")]
    assert cells[0] == "ridge" and "0.75" in cells
    assert report_of(ws, None).run_id == SWEEP, "the only one with a result"


def test_without_a_name_the_report_is_of_the_latest_valuation(tmp_path: Any) -> None:
    maker = Maker(tmp_path)
    maker.make()
    swept(maker.ws)
    assert report_of(maker.ws, None).run_id == RUN
    for wrong, words in (("all", "one run"), ("nowhere", "no run")):
        with pytest.raises(UserError, match=words):
            report_of(maker.ws, wrong)


def test_a_sweep_that_did_not_finish_has_none(tmp_path: Any) -> None:
    ws = Maker(tmp_path).ws
    with attempt(ws, SWEEP, {}, {}):
        pass
    with pytest.raises(UserError, match="no finished run here"):
        report_of(ws, SWEEP)
