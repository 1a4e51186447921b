"""Read-only SQL over the views: SELECT and EXPLAIN only, no files, no extensions, no settings."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa

from nncift_core.errors import UserError
from nncift_core.store.views import VIEWS, connect
from nncift_core.store.workspace import Workspace

_ALLOWED = {"SELECT", "EXPLAIN"}


def query(ws: Workspace, sql: str, run: str | None = None) -> pa.Table:
    """Result of one read-only statement as an Arrow table.

    Raises UserError for anything but one SELECT or EXPLAIN, and for errors in the SQL.
    """
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as e:
        raise _wrong(e) from None
    if len(statements) != 1:
        raise UserError(f"{len(statements)} statements given", field="SQL", mend="Give exactly one SELECT.")
    kind = statements[0].type.name
    if kind not in _ALLOWED:
        raise UserError(
            f"{kind} is refused: queries are read-only", field="SQL", mend="Use SELECT (or EXPLAIN SELECT)."
        )
    with connect(ws, run) as con:
        try:
            if kind == "EXPLAIN":
                plans = con.execute(statements[0]).fetchall()
                return pa.table({"explain": ["\n".join(str(p) for p in row) for row in plans]})
            return con.sql(sql).to_arrow_table()
        except duckdb.PermissionException as e:
            raise UserError(
                f"access refused ({_first_line(e)})",
                field="SQL",
                mend=f"Queries see only these views: {', '.join(VIEWS)}.",
            ) from None
        except duckdb.Error as e:
            raise _wrong(e) from None


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
