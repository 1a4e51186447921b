"""`nncift diff` by the command line: two runs with a changed pool; small stored runs for the texts shown."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, oracle_rows, write_jsonl
from rich.console import Console
from typer.testing import CliRunner

from flows.cli import app
from flows.diff_summary import shared_out, show_changes
from nncift_core.errors import UserError
from nncift_core.pipeline import diff
from nncift_core.store.workspace import Workspace

ROW: dict[str, Any] = {
    "run_id": "b", "previous_run": "a", "train_id": 1, "change": "entered", "why": diff.NEW,
    "rank_before": None, "rank_after": 1, "score_before": None, "score_after": 0.125,
    "origin_before": None, "origin_after": "exact",
}  # fmt: skip


def changed(entered: int, left: int) -> list[dict[str, Any]]:
    return [{**ROW, "train_id": k} for k in range(entered)] + [
        {**ROW, "train_id": 100 + k, "change": "left", "why": "its score fell (from 1 to 0.5)"}
        for k in range(left)
    ]


def printed(*args: Any, **more: Any) -> str:
    out = io.StringIO()
    show_changes(Console(file=out, width=160), *args, **more)
    return out.getvalue()


@pytest.mark.parametrize(
    ("entered", "left", "limit", "expected"),
    [
        (9, 9, 4, (2, 2)), (9, 1, 4, (3, 1)), (1, 9, 4, (1, 3)), (9, 9, 5, (3, 2)), (2, 1, 9, (2, 1)),
        (3, 3, 0, (0, 0)),
    ],
)  # fmt: skip
def test_places_are_shared_between_both_kinds(
    entered: int, left: int, limit: int, expected: tuple[int, int]
) -> None:
    kinds = [row["change"] for row in shared_out(changed(entered, left), limit)]
    assert (kinds.count("entered"), kinds.count("left")) == expected


def test_counts_rows_and_what_is_not_shown_are_printed() -> None:
    text = printed(changed(3, 2), texts={0: "a \x1b[31mprompt\nof two lines"}, limit=2)
    assert "2 of 5 changed rows shown" in text
    assert "its score fell (from 1 to 0.5)" in text and "- > 0.125" in text
    assert "\x1b" not in text and "a ␛[31mprompt⏎of two lines" in text
    counts = [line.split("│")[1:4] for line in text.splitlines() if line.startswith("│")][:2]
    assert [[cell.strip() for cell in line] for line in counts] == [
        ["entered", "new in the pool", "3"],
        ["left", "its score fell", "2"],
    ]
    assert "changed rows shown" not in printed(changed(3, 2))
    assert "nothing: both subsets hold the same rows" in printed([])


def test_a_wrong_run_is_the_users_mistake(tmp_path: Path) -> None:
    Workspace.create(tmp_path / "ws")
    done = CliRunner().invoke(app, ["diff", "a", "b", "--workspace", str(tmp_path / "ws")])
    assert isinstance(done.exception, UserError) and "'a'" in str(done.exception)


@pytest.mark.heavy
def test_two_runs_with_a_changed_pool_are_told_apart(make_project: Callable[[str], Project]) -> None:
    project = make_project("diff")
    project.configure(influence={"label_fraction": 1.0}, selection={"count": 6, "rule": "top-k"})
    first = project.value()["run_id"]
    pool = oracle_rows("pool")
    chosen = [r["source_id"] for r in project.ask(
        "SELECT source_id FROM selection JOIN examples ON train_id = example_id ORDER BY rank"
    )]  # fmt: skip
    gone = chosen[0]
    rows = [r for r in pool if r["id"] != gone]
    write_jsonl(project.folder / "pool.jsonl", [*rows, {**pool[0], "id": "x", "prompt": "Say <b>hi</b>."}])
    second = project.value()["run_id"]
    where = ("--workspace", str(project.workspace))

    told = json.loads(project.call("diff", first[:8], second[:8], *where, "--json").stdout)
    assert told["data"][0] == {
        "role": "pool",
        "before": len(pool),
        "after": len(pool),
        "added": 1,
        "removed": 1,
    }
    assert told["config"] == [] and told["notes"] == [] and told["changes_left_out"] == 0
    left = [row for row in told["changes"] if row["change"] == "left"]
    lost = next(r["prompt"] for r in pool if r["id"] == gone)
    assert (lost, diff.REMOVED, 1) in [(r["prompt"], r["why"], r["rank_before"]) for r in left]
    assert {r["why"] for r in told["changes"]} <= {diff.REMOVED, diff.NEW, diff.MOVED_UP, diff.DISPLACED}
    assert told["subset"]["both"] + told["subset"]["left"] == 6
    assert told["scores"]["spearman"] == pytest.approx(1.0), "exact scores of rows do not depend on others"

    text = project.call("diff", first, second, *where, "--limit", "1").stdout
    assert diff.REMOVED in text and f"1 of {len(told['changes'])} changed rows shown" in text
    assert "none: every value is exact" in text
    same = project.call("diff", second, second, *where).stdout
    assert "nothing: both subsets hold the same rows" in same

    wrong = project.call("diff", first, "nosuchrun", *where, "--json", check=2)
    assert wrong.stdout == "" and "nosuchrun" in wrong.stderr and "Traceback" not in wrong.stderr
