"""Read-only SQL over the views: SELECT and EXPLAIN only, no files, no extensions, no settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa

from nncift_core.errors import IntegrityError, UserError
from nncift_core.store.views import VIEWS, Recomputed, connect
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
    explained = _EXPLAIN.match(sql)
    _check_reads_only(sql[explained.end() :] if explained else sql)
    with _connected(ws, run, sql, recomputed) as con:
        try:
            if explained:
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
            raise _wrong(e) from None


def _connected(
    ws: Workspace, run: str | None, sql: str, recomputed: Mapping[str, Recomputed] | None
) -> duckdb.DuckDBPyConnection:
    try:
        return connect(ws, run, sql, recomputed)
    except duckdb.IOException as e:
        raise IntegrityError(
            f"a stored file is missing or damaged ({_first_line(e)}); run that job again to recompute it"
        ) from None


def _check_reads_only(sql: str) -> None:
    """Refuse everything but one SELECT without writing parts (a CTE may hold a DELETE)."""
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as e:
        raise _wrong(e) from None
    if len(statements) != 1:
        raise UserError(f"{len(statements)} statements given", field="SQL", mend=_MEND)
    kind = statements[0].type.name
    if kind != "SELECT":
        raise UserError(f"{kind} is refused: queries are read-only", field="SQL", mend=_MEND)
    with duckdb.connect() as con:
        tree = con.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
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
