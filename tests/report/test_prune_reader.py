"""The reader of a report: one connection for all its questions, and no more rights than a query has."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from report.made_prune import RUN, PruneMaker
from report.trees import parse

from nncift_core.errors import IntegrityError, UserError
from nncift_core.report import prune
from nncift_core.report.prune import render_prune
from nncift_core.report.queries import Reader
from nncift_core.store.columns import VIEWS
from nncift_core.store.query import rows
from nncift_core.store.workspace import Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return PruneMaker(tmp_path).make()


def test_it_answers_as_single_queries_do(ws: Workspace) -> None:
    reader = Reader(ws, RUN)
    for view in VIEWS:
        sql = f"SELECT * FROM {view} ORDER BY ALL"
        assert reader.ask(sql).rows == rows(ws, sql, RUN), view
    joined = "SELECT count(*) AS n FROM suspects JOIN examples ON example_id = train_id"
    assert reader.ask(joined).first["n"] == rows(ws, joined, RUN)[0]["n"] > 0
    assert reader.ask("EXPLAIN SELECT 1").first.keys() == {"explain"}


def test_a_page_is_made_by_one_connection(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    connect = duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda *args: made.append(args) or connect(*args))
    render_prune(ws, RUN)
    assert made == [()]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW scores",
        "WITH a AS (DELETE FROM costs RETURNING *) SELECT * FROM a",
        "EXPLAIN ANALYZE DROP VIEW scores",
        "SET enable_external_access = true",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM read_csv('{secret}')",
    ],
)
def test_it_reads_its_views_alone_also_after_others_were_made(
    ws: Workspace, tmp_path: Path, sql: str
) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n", encoding="utf-8")
    reader = Reader(ws, RUN)
    for view in ("costs", "scores"):
        reader.ask(f"SELECT * FROM {view}")
    with pytest.raises(UserError):
        reader.ask(sql.replace("{secret}", str(secret)))
    assert reader.ask("SELECT count(*) AS n FROM scores").first["n"] > 0
    assert reader.ask("SELECT count(*) AS n FROM findings").first["n"] > 0


def test_a_file_that_is_lost_is_told_and_other_views_still_answer(ws: Workspace) -> None:
    reader = Reader(ws, RUN)
    assert reader.ask("SELECT count(*) AS n FROM findings").first["n"] > 0
    lost = [p for p in ws.root.rglob("*.parquet") if "suspects" in p.name or "suspects" in p.parent.name]
    assert lost
    for path in lost:
        path.unlink()
    for ask in (reader.ask, lambda sql: rows(ws, sql, RUN)):
        with pytest.raises(IntegrityError, match=r"missing or damaged \(.*no file .*suspects.*parquet"):
            ask("SELECT * FROM suspects")
    assert reader.ask("SELECT count(*) AS n FROM scores").first["n"] > 0


def test_a_label_that_may_say_that_there_is_none_is_told_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "SECTIONS", (prune.head,))
    told = 'the label "-1" is <b>'
    pages = [
        parse(render_prune(PruneMaker(tmp_path / name).make(facts={"labels_note": note}), RUN)).text
        for name, note in (("none", ""), ("one", told))
    ]
    assert "the label" not in pages[0] and f"{told}." in pages[1]
