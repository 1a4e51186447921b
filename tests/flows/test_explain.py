"""`nncift explain` and the objective of `nncift diff` as they are printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import Project
from pipeline import explained
from pipeline.explained import LATER, RUN, publish_run, rows_of
from pipeline.priced import register
from report.made_prune import PruneMaker
from typer.testing import CliRunner

from flows import cli_diff, cli_explain
from nncift_core.errors import UserError
from nncift_core.records import Example


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def call(*args: str, folder: Path) -> Any:
    """The command in an app of its own."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    cli_explain.register(app)
    cli_diff.register(app)
    return CliRunner().invoke(app, [*args, "--workspace", str(folder)])


def test_a_chosen_row_and_another_are_told_in_80_columns(tmp_path: Path) -> None:
    stored = publish_run(tmp_path, rule="flmi", count=6, all_exact=False, mode="stochastic")
    order = stored.order().tolist()
    other = next(i for i in range(30) if i not in order)
    for row, expected in (
        (order[1], ("Chosen: rank 2 of 6 by flmi", "Next best at that step: ", "its own best match")),
        (other, ("Not chosen", "Its gain would have to rise by", "a chosen row is at least as good")),
        (28, ("2 more rows hold the same text:", "Near duplicates (cosine >= 0.95, other text)")),
        (20, ("estimated  target-", "The others are of kernel, fitted on 90 labels, trusted")),
    ):
        done = call("explain", f"row:{row}", folder=stored.ws.root)
        assert done.exit_code == 0, done.exception
        flat = " ".join(done.stdout.split())
        assert all(" ".join(text.split()) in flat for text in expected), done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80
        assert "\x1b" not in done.stdout and "note: the rule was maximised approximately" in flat


def test_under_top_k_the_cut_is_told(tmp_path: Path) -> None:
    stored = publish_run(tmp_path, count=6)
    order = stored.order().tolist()
    chosen = call("explain", f"pool-{order[0]}", folder=stored.ws.root).stdout
    assert "Chosen: rank 1 of 6 by top-k" in chosen and "First row below the cut: pool-" in chosen
    other = next(i for i in range(28) if i not in order)
    left = call("explain", f"row:{other}", folder=stored.ws.root).stdout
    assert "to reach the last chosen row" in left


def test_json_is_one_object_and_a_wrong_name_is_one_message(tmp_path: Path) -> None:
    stored = publish_run(tmp_path, rule="fl", count=6)
    told = json.loads(call("explain", "pool-3", "--json", folder=stored.ws.root).stdout)
    assert list(told) == ["run", "row", "values", "choice", "neighbours", "lineage", "notes"]
    wrong = call("explain", "nosuch", folder=stored.ws.root)
    assert isinstance(wrong.exception, UserError) and wrong.stdout == ""
    assert "nosuch" in str(wrong.exception)


def test_texts_that_steer_a_terminal_are_shown_as_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hostile(role: str, count: int) -> list[Example]:
        steer, own = "\x1b[31m", "\x1b]0;"
        return [
            replace(r, prompt=steer + r.prompt, source_id=f"{own}{r.row_number}")
            for r in rows_of(role, count)
        ]

    monkeypatch.setattr(explained, "rows_of", hostile)
    stored = publish_run(tmp_path, rule="fl", count=6)
    for row in (int(stored.order()[0]), 27):
        text = call("explain", f"row:{row}", folder=stored.ws.root).stdout
        assert "\x1b" not in text and "␛[31m" in text


def test_a_row_of_a_prune_run_is_told(tmp_path: Path) -> None:
    ws = PruneMaker(tmp_path).make()
    text = call("explain", "row:2", folder=ws.root).stdout
    assert "label     class 2" in text and "The run wrote no subset." in text
    assert "el2n (early)" in text and "Suspect 3 of" in text
    assert max(map(len, text.splitlines())) <= 80


def test_diff_prints_the_objective_of_both_subsets(tmp_path: Path) -> None:
    before = publish_run(tmp_path, RUN, rule="fl", count=6)
    publish_run(tmp_path, LATER, rule="fl", count=5)
    text = call("diff", RUN, LATER, folder=before.ws.root).stdout
    assert "Objective of both subsets under each run" in text
    table = [[c.strip() for c in line.split("│")[1:-1]] for line in text.splitlines()]
    cells = next(row[2:] for row in table if row[:2] == ["before", "fl"])
    assert float(cells[0]) > float(cells[1]) and cells[2].startswith("-") and cells[3].endswith("%")
    assert "note: the subsets count 6 and 5 rows" in text


@pytest.mark.heavy
@pytest.mark.parametrize("kept", ["all", "none"])
def test_values_and_intervals_are_those_of_the_view(
    make_project: Callable[[str], Project], kept: str
) -> None:
    """Whatever of the matrix is stored."""
    p = make_project("explain")
    p.configure(shards={"store_matrix": kept}, influence={"audit_pairs": 90})
    p.value()
    for row in p.ask("SELECT train_id, gain FROM selection WHERE rank IN (1, 5)"):
        told = json.loads(call("explain", str(row["train_id"]), "--json", folder=p.workspace).stdout)
        view = {
            r["target_id"]: r
            for r in p.query("SELECT * FROM influence", "--compute", f"example_id = {row['train_id']}")
        }
        best = [t for v in told["values"] for t in v["best"]]
        assert best and told["notes"] in ([], [n for n in told["notes"] if "embeddings" in n])
        for t in best:
            seen = view[t["example_id"]]
            assert t["origin"] == seen["origin"]
            for key in ("influence", "lower", "upper"):
                assert t[key] == pytest.approx(seen[key], abs=1e-5)
        assert told["choice"]["gain"] == pytest.approx(row["gain"])
        assert told["lineage"]["exact"][0]["run_id"] == told["run"]["run_id"]
