"""Read-only SQL over the views: SELECT and EXPLAIN only, no files, no extensions, no settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from nncift_core.errors import IntegrityError, UserError
from nncift_core.store.columns import VIEWS
from nncift_core.store.remote.duck import raise_lost
from nncift_core.store.views import Recomputed, Views, connect, named_in
from nncift_core.store.workspace import Workspace

_EXPLAIN = re.compile(r"\s*EXPLAIN\b\s*(ANALYZE\b|\([^)]*\))?", re.IGNORECASE)
_MEND = "Use one SELECT (or EXPLAIN of one)."


def query(
    ws: Workspace, sql: str, run: str | None = None, recomputed: Mapping[str, Recomputed] | None = None
) -> pa.Table:
    """Result of one read-only statement as an Arrow table; columns of one name get a number behind it.

    recomputed: as for `views.connect`.

    Raises UserError for anything but one SELECT (or EXPLAIN of one), and for errors in the SQL.
    """
    _check_one_select(sql)
    with _stored():
        con = connect(ws, run, sql, recomputed)
    with con:
        return _answer(con, sql)


class Session:
    """Queries under one run by one connection, as `query` answers them one by one.

    What it answers is of the files that there were at its first query. Not for several threads.
    """

    def __init__(self, ws: Workspace, run: str | None = None) -> None:
        self._ws, self._run = ws, run
        self._views: Views | None = None

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Result of one read-only statement as plain row objects. Raises as `query`."""
        _check_one_select(sql)
        with _stored():
            if self._views is None:
                self._views = Views(self._ws, self._run)
            self._views.need(named_in(sql))
        found: list[dict[str, Any]] = _answer(self._views.con, sql).to_pylist()
        return found


def _answer(con: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """Result of one SELECT (or EXPLAIN of one) on a connection that is locked to its files."""
    _check_writes_nothing(con, sql)
    try:
        if _EXPLAIN.match(sql):
            plans = con.execute(sql).fetchall()
            return pa.table({"explain": ["\n".join(str(p) for p in row) for row in plans]})
        return _unique_names(con.sql(sql).to_arrow_table())
    except duckdb.PermissionException as e:
        raise UserError(
            f"access refused ({_first_line(e)})",
            field="SQL",
            mend=f"Queries see only these views: {', '.join(VIEWS)}.",
        ) from None
    except duckdb.Error as e:
        raise_lost()
        raise _wrong(e) from None


@contextmanager
def _stored() -> Iterator[None]:
    """Within, a file that is lost is told as such."""
    try:
        yield
    except duckdb.IOException as e:
        raise IntegrityError(
            f"a stored file is missing or damaged ({_first_line(e)}); run that job again to recompute it"
        ) from None


def _explained(sql: str) -> str:
    """The statement that an EXPLAIN is of, else the statement itself."""
    found = _EXPLAIN.match(sql)
    return sql[found.end() :] if found else sql


def _check_one_select(sql: str) -> None:
    """Refuse everything but one SELECT, or EXPLAIN of one."""
    sql = _explained(sql)
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as e:
        raise _wrong(e) from None
    if len(statements) != 1:
        raise UserError(f"{len(statements)} statements given", field="SQL", mend=_MEND)
    kind = statements[0].type.name
    if kind != "SELECT":
        raise UserError(f"{kind} is refused: queries are read-only", field="SQL", mend=_MEND)


def _check_writes_nothing(con: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse a SELECT with writing parts: a CTE may hold a DELETE."""
    tree = con.execute("SELECT json_serialize_sql(?)", [_explained(sql)]).fetchall()
    writes = re.search(r'"type":"(DELETE|INSERT|UPDATE|MERGE)[A-Z_]*"', str(tree))
    if writes:
        raise UserError(f"{writes[1]} is refused: queries are read-only", field="SQL", mend=_MEND)


def _unique_names(table: pa.Table) -> pa.Table:
    names: list[str] = []
    for name in table.column_names:
        fresh, n = name, 1
        while fresh in names:
            fresh, n = f"{name}_{n}", n + 1
        names.append(fresh)
    return table.rename_columns(names)


def rows(ws: Workspace, sql: str, run: str | None = None) -> list[dict[str, Any]]:
    """`query` as plain row objects."""
    found: list[dict[str, Any]] = query(ws, sql, run).to_pylist()
    return found


def _wrong(error: duckdb.Error) -> UserError:
    return UserError(
        _first_line(error),
        field="SQL",
        mend=f"Views: {', '.join(VIEWS)}; see docs/views.md for their columns.",
    )


def _first_line(error: duckdb.Error) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])
