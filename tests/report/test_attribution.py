"""The page of an audit: its numbers are its queries'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report.checks import check_values
from report.trees import parse

from nncift_core.errors import UserError
from nncift_core.pipeline.report import report_of
from nncift_core.pipeline.result import record_without_matrix
from nncift_core.report import render_audit
from nncift_core.store.runs import attempt, publish_table
from nncift_core.store.views import rows_table
from nncift_core.store.workspace import Workspace

RUN = "a0d17a0d17a0d17a"
METHODS = (("less, exact", "less", "exact"), ("<b>bm25</b>", "bm25", "baseline"))


def measures() -> list[dict[str, Any]]:
    """Every measure for two methods; the second has no interval and a note."""
    found = []
    for k, (method, function, values) in enumerate(METHODS):
        for metric, share in (
            ("lds", None), ("qld", 0.01), ("top-k", 0.01), ("top-k", 0.05), ("wrong auc", None),
            ("duplicate auc", None), ("duplicate recall@1", None), ("duplicate recall@10", None),
            ("duplicate rank", None),
        ):  # fmt: skip
            for task in ("all", "maths", "code") if metric == "lds" else ("all",):
                found.append({
                    "run_id": RUN, "method": method, "function": function, "origin": values, "metric": metric,
                    "target_task": task, "share": share, "value": 0.25 + k, "lower": None if k else 0.125,
                    "upper": None if k else 0.5, "n": 20, "note": "one value" if k else None,
                })  # fmt: skip
    return found


def audited(ws: Workspace, **facts: Any) -> None:
    models = [
        {"run_id": RUN, "key": f"k{k}", "subset": kind, "kind": kind, "method": None, "share": None,
         "target_id": None, "seed": 0, "rows": 10, "loss": 2.5 + k}
        for k, kind in enumerate(("base", "subset", "subset"))
    ]  # fmt: skip
    told = {
        "pool_rows": 40, "queries": 20, "models": 2, "subset_models": 2, "loss_untrained": 3.5,
        "loss_trained": 2.5, "loss_spread": 0.25, "seed_agreement": 0.5, "failed": "", **facts,
    }  # fmt: skip
    with attempt(ws, RUN, {}, {}) as current:
        tables = {}
        for view, rows in (("attribution", measures()), ("attribution_models", models)):
            table = rows_table(view, rows)
            tables[view] = publish_table(ws, RUN, view, "key", table, producer="audit", parents=())
        current.publish_result(record_without_matrix(ws, [], RUN, "audit", tables, told))


def test_every_number_of_the_page_is_its_querys(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    audited(ws, default_finetune=True, queries_in_pool=3, failed="less, exact: <i>out</i> of memory")
    html = report_of(ws, RUN).path.read_text(encoding="utf-8")
    page = parse(html)
    # Measures of two methods, five tables and a dozen facts.
    assert check_values(page, ws) > 80
    titles = [h.text for h in page.all("h2")]
    assert titles[1:] == [
        "Do values predict losses (LDS)", "What is lost without the best rows", "Planted wrong answers",
        "Planted copies of queries", "Models",
    ]  # fmt: skip
    assert "<b>bm25" not in html and "<i>out" not in html and "no section [finetune]" in html
    assert len(page.all("img")) == 2


def test_what_was_not_tested_is_not_on_the_page_and_other_runs_are_refused(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    audited(ws, default_finetune=False, seed_agreement=None, queries_in_pool=0)
    html = render_audit(ws, RUN)
    assert "Two seeds" not in html and "no section [finetune]" not in html and "None" not in html
    other = "b" * 16
    with attempt(ws, other, {}, {}) as current:
        current.publish_result(record_without_matrix(ws, [], other, "compare", {}, {}))
    with pytest.raises(UserError, match="no audit"):
        render_audit(ws, other)
