"""The section on what changed since the run before: only where that was noted, every number its query's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report.checks import check_values, free_digits, section
from report.made import CHOSEN, RUN, Made, Maker
from report.trees import parse

from nncift_core.records import Example
from nncift_core.report import render
from nncift_core.report.blocks import Sentence
from nncift_core.report.changes import changes as changes_section
from nncift_core.report.queries import Reader
from nncift_core.store.runs import attempt, publish_table, read_result
from nncift_core.store.views import rows_table

BEFORE = "0123456789abcdef"
MARK = "<script>alert(1)</script> \u202e rows"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    rows = {"pool": [Example(f"{MARK} {k}", f"answer {k}", k) for k in range(24)]}
    return Maker(tmp_path).make(evaluated=False, rows=rows)


def change(made: Made, k: int, why: str, left: bool = False) -> dict[str, Any]:
    """The k-th row of the pool came or went; a row beyond the pool is one that was removed."""
    ids = made.sets["pool"].example_ids.tolist()
    return {
        "run_id": RUN, "previous_run": BEFORE, "train_id": ids[k] if k < len(ids) else 5,
        "change": "left" if left else "entered", "why": why,
        "rank_before": k + 1 if left else None, "rank_after": None if left else k + 1,
        "score_before": 0.5 if left else None, "score_after": None if left else 0.25,
        "origin_before": None, "origin_after": "estimated",
    }  # fmt: skip


def note(made: Made, changes: list[dict[str, Any]], **facts: Any) -> None:
    """Publish the run's result again, with these changes."""
    table = rows_table("subset_changes", changes)
    path = publish_table(made.ws, RUN, "subset_changes", "0" * 16, table, producer="test", parents=())
    result = read_result(made.ws, RUN)
    assert result is not None
    with attempt(made.ws, RUN, {}, {}) as current:
        result["facts"] |= facts
        current.publish_result({**result, "tables": {**result["tables"], "subset_changes": path}})


def told(made: Made) -> str:
    """The sentences of the section, without their values."""
    found = changes_section(Reader(made.ws, RUN))
    assert found is not None
    sentences = [block for block in found.blocks if isinstance(block, Sentence)]
    return " ".join(part for s in sentences for part in s.parts if isinstance(part, str))


def test_changes_are_counted_by_reason_and_listed_by_rank(made: Made) -> None:
    changes = [change(made, k, f"its score rose (from 0.{k} to 0.25)") for k in range(12)]
    changes += [change(made, 12, "new in the pool"), change(made, 99, "removed from the pool", left=True)]
    note(made, changes)
    page = parse(render(made.ws, RUN))
    assert check_values(page, made.ws) > 100 and free_digits(page) == []
    found = section(page, "changes")
    assert f"Since run {BEFORE}, 13 rows entered the subset and 1 left it." in found.text
    counts, first = found.all("table")
    cells = [[c.text for c in row.all("td")] for row in counts.all("tbody")[0].all("tr")]
    assert cells == [
        ["entered", "its score rose", "12"],
        ["entered", "new in the pool", "1"],
        ["left", "removed from the pool", "1"],
    ]
    listed = [[c.text for c in row.all("td")] for row in first.all("tbody")[0].all("tr")]
    assert len(listed) == 11 and [row[2] for row in listed[:10]] == [str(k + 1) for k in range(10)]
    assert listed[-1][0] == "left" and listed[-1][-1].strip() == "–"
    assert first.all("script") == [] and "\u202e" not in first.text and "<script>" in listed[0][-1]
    assert "#changes" in [a.attributes["href"] for a in page.all("nav")[0].all("a")]


def test_a_rule_that_covers_is_told_from_one_that_ranks(made: Made) -> None:
    changes = [change(made, CHOSEN, "new in the pool")]
    note(made, changes)
    assert "order of picking" in told(made)
    note(made, changes, rule="top-k")
    assert "order of picking" not in told(made)


def test_there_is_no_section_without_changes(made: Made) -> None:
    assert changes_section(Reader(made.ws, RUN)) is None
    note(made, [])
    assert changes_section(Reader(made.ws, RUN)) is None
