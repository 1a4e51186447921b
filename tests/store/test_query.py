"""Queries are read-only: no writes, no files, no extensions, no settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from nncift_core.errors import UserError
from nncift_core.store.columns import VIEWS
from nncift_core.store.query import query, rows
from nncift_core.store.runs import attempt
from nncift_core.store.workspace import Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "ws")


def test_views_of_an_empty_workspace_answer(ws: Workspace) -> None:
    for view in VIEWS:
        assert rows(ws, f"SELECT * FROM {view}") == []
    assert rows(ws, "SELECT 1 AS x") == [{"x": 1}]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW influence",
        "INSERT INTO runs VALUES (1)",
        "COPY (SELECT 1) TO 'out.csv'",
        "ATTACH 'other.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "PRAGMA database_list",
        "EXPORT DATABASE 'x'",
        "SELECT 1; DROP TABLE costs",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'out.csv' (USE_TMP_FILE false)",
        "EXPLAIN ANALYZE DROP VIEW scores",
        "EXPLAIN (FORMAT json) DROP VIEW scores",
        "WITH a AS (DELETE FROM costs RETURNING *) SELECT * FROM a",
        "SELECT 1; SELECT 2",
        "",
    ],
)
def test_anything_but_one_select_is_refused(
    ws: Workspace, sql: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"refused|statements given|No statement|syntax"):
        query(ws, sql)
    assert sorted(tmp_path.iterdir()) == before


def test_files_cannot_be_read(ws: Workspace, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for sql in (
        f"SELECT * FROM read_csv('{secret}')",
        f"SELECT * FROM read_text('{secret}')",
        f"SELECT * FROM '{secret}'",
        f"SELECT * FROM glob('{tmp_path}/*')",
        f"SELECT * FROM read_text('{ws.root}/nncift.json')",
    ):
        with pytest.raises(UserError) as error:
            query(ws, sql)
        assert "Views: " in str(error.value) or "only these views" in str(error.value)


def test_python_variables_are_not_tables(ws: Workspace) -> None:
    VIEWS_TABLE = {"a": [1]}  # noqa: F841, N806
    with pytest.raises(UserError, match="VIEWS_TABLE"):
        query(ws, "SELECT * FROM VIEWS_TABLE")


def test_wrong_sql_names_the_views(ws: Workspace) -> None:
    with pytest.raises(UserError, match=r"influenc .*Views: examples, influence"):
        query(ws, "SELECT * FROM influenc")


def test_explain_answers(ws: Workspace) -> None:
    assert "explain" in rows(ws, "EXPLAIN SELECT * FROM influence")[0]


def test_columns_of_one_name_keep_their_values(ws: Workspace) -> None:
    assert rows(ws, "SELECT 1 AS a, 2 AS b, 3 AS a") == [{"a": 1, "b": 2, "a_1": 3}]


def test_unknown_run_names_those_that_exist(ws: Workspace) -> None:
    with attempt(ws, "abcd1234", {}, {}):
        pass
    with pytest.raises(UserError, match=r"no run 'zzz'.*abcd1234"):
        query(ws, "SELECT 1", run="zzz")


def test_attempts_end_as_completed_failed_or_killed(ws: Workspace) -> None:
    with attempt(ws, "r", {}, {}):
        pass
    with pytest.raises(RuntimeError), attempt(ws, "r", {}, {}):
        raise RuntimeError("boom")
    # An attempt whose process died leaves the status "running" and a lock that nobody holds.
    generator = attempt(ws, "r", {}, {})
    third = generator.__enter__()
    path = ws.run_dir("r") / "attempts" / "0003.json"
    text = path.read_text()
    generator.__exit__(None, None, None)
    path.write_text(text)
    assert third.number == 3
    assert rows(ws, "SELECT status FROM runs WHERE attempt = 3") == [{"status": "killed"}]
    with attempt(ws, "r", {}, {}):
        states = rows(ws, "SELECT attempt, status FROM runs ORDER BY attempt")
    assert [s["status"] for s in states] == ["completed", "failed", "killed", "running"]
