"""The section on what was learned of a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report.checks import check_values, free_digits, section
from report.made import RUN, Maker
from report.trees import parse

from nncift_core.report import masks, outcome, render
from nncift_core.report import page as page_module
from nncift_core.store import views
from nncift_core.store.files import write_json
from nncift_core.store.runs import publish_table
from nncift_core.store.workspace import Workspace

TOKENS = [(4, "2 + 2", False), (5, " = <b>", False), (6, "fo", True), (7, "ur", True), (9, "<end>", True)]


@pytest.fixture
def page_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Renders a run that noted the given rows."""
    monkeypatch.setattr(page_module, "SECTIONS", (outcome.head, masks.masks))

    def page(rows: list[dict[str, Any]]) -> tuple[Workspace, Any]:
        ws = Maker(tmp_path).make(evaluated=False).ws
        if rows:
            table = views.rows_table("training_masks", rows)
            path = publish_table(ws, RUN, "training_masks", "k", table, producer="fine-tune", parents=())
            result = json.loads(ws.result_file(RUN).read_text(encoding="utf-8"))
            result["tables"]["training_masks"] = path
            write_json(ws.result_file(RUN), result)
        return ws, parse(render(ws, RUN))

    return page


def noted(subset: str, train_id: int) -> list[dict[str, Any]]:
    shared = {"run_id": RUN, "subset": subset, "seed": 0, "train_id": train_id}
    shared |= {"tokens": 10, "learned_tokens": 4}
    return [{**shared, "position": p, "text": t, "learned": learned} for p, t, learned in TOKENS]


def test_a_row_shows_what_was_read_and_what_was_learned(page_of: Any) -> None:
    ws, page = page_of(noted("random", 7) + noted("selected", 2**60))
    found = section(page, "masks")
    cells = [c.text for c in found.all("td")]
    read, learned = "... 2 + 2 = <b>", "four... <end>"
    assert cells[:8] == ["selected", str(2**60), "10", "4", read, learned, "fo", "<end>"]
    assert cells[8] == "random" and len(cells) == 16
    assert "The first 2 training rows" in found.all("p")[0].text
    assert check_values(page, ws) > 16 and free_digits(page) == []


def test_a_run_that_trained_nothing_has_no_such_section(page_of: Any) -> None:
    _, page = page_of([])
    assert "What was learned of a row" not in page.text
