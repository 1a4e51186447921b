"""The DuckDB views that users query; their columns are in `columns`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.store.columns import EXAMPLES, INFLUENCE, LOADED, TABLES, VIEWS
from nncift_core.store.files import MANIFEST_SUFFIX
from nncift_core.store.forecasts import forecast_rows
from nncift_core.store.lineage import attempt_of
from nncift_core.store.remote.duck import location, raise_lost, register
from nncift_core.store.runs import read_attempts, read_costs, read_result, resolve_runs
from nncift_core.store.sweeps import read_sweeps
from nncift_core.store.workspace import Workspace


@dataclass(frozen=True)
class Recomputed:
    """Files of values that `store_matrix` left out, computed for one query: exact ones, and estimates (None
    where everything is exact); rows: example ids of the pool rows that they are of."""

    exact: str
    estimates: str | None
    rows: tuple[int, ...]


class Views:
    """An in-memory DuckDB (`con`) with views over `ws`, which can read their files and no others.

    run, recomputed: as for `connect`; among: the views that may be asked for. One is made when `need` first
    names it; those of results are of the files that there were when this was made. Not for several threads.
    """

    def __init__(
        self,
        ws: Workspace,
        run: str | None = None,
        recomputed: Mapping[str, Recomputed] | None = None,
        among: Sequence[str] = VIEWS,
    ) -> None:
        self._ws, self._run = ws, run
        self._chosen = resolve_runs(ws, run)
        results = [r for r in (read_result(ws, i) for i in self._chosen) if r is not None]
        for r in results:
            if found := (recomputed or {}).get(r["run_id"]):
                r["matrix"] |= {"exact": [found.exact], "estimates": [e for e in [found.estimates] if e]}
                r["matrix"]["only"] = found.rows
        self._facts = [f for r in results for f in _facts(r)]
        self._sweeps = read_sweeps(ws, run) if {"sweep", "costs"} & set(among) else []
        self._files = {view: _Files(ws) for view in among if view not in LOADED}
        self._statements = {
            view: _statement(files, self._sweeps if view == "sweep" else results, view)
            for view, files in self._files.items()
        }
        self._left = set(among)
        used = {path for files in self._files.values() for path in files.used}
        self.con = _locked_to(used, ws.mirror is not None)

    def need(self, views: Sequence[str]) -> None:
        """Make those of `views` that are not there yet. Raises duckdb.IOException for a file that is lost."""
        for view in views:
            if view not in self._left:
                continue
            if view in LOADED:
                _load(self.con, view, LOADED[view], self._rows(view))
            else:
                self._make(view)
            self._left.remove(view)

    def _make(self, view: str) -> None:
        try:
            self.con.execute(self._statements[view])
        except duckdb.Error as e:
            raise_lost()
            if not isinstance(e, duckdb.PermissionException):
                raise
            # A file that is gone is looked for as a folder, and those are closed.
            lost = [path for path in sorted(self._files[view].used) if not Path(path).is_file()]
            if not lost or self._ws.mirror is not None:
                raise
            raise duckdb.IOException(f"no file {lost[0]}") from None

    def _rows(self, view: str) -> list[dict[str, Any]]:
        """Rows of a view that is no file."""
        if view == "facts":
            return self._facts
        if view == "lineage":
            return read_lineage(self._ws)
        if view == "runs":
            return [_run_row(a) for a in read_attempts(self._ws)]
        if view == "forecast":
            return forecast_rows(self._ws, self._chosen)
        wanted = set(self._chosen) if self._chosen or self._run is None else {str(self._run)}
        wanted |= {s["run_id"] for s in self._sweeps} if self._run is not None else set()
        return [c for c in read_costs(self._ws) if c["run_id"] in wanted]


def named_in(sql: str) -> list[str]:
    """The views that `sql` may read: those whose name stands somewhere in it."""
    return [view for view in VIEWS if view in sql.lower()]


def connect(
    ws: Workspace,
    run: str | None = None,
    sql: str | None = None,
    recomputed: Mapping[str, Recomputed] | None = None,
) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the views over `ws`, which can read the files of these views and no others.

    run: None = the latest run with a result (for `sweep` the latest sweep), "all", or a run id. `runs` and
    `lineage` always show the whole workspace. With `sql`, views that it does not name stay empty: `lineage`
    reads every manifest of the workspace. recomputed: by run id, the values of the view `influence` instead
    of the stored ones.
    """
    named = VIEWS if sql is None else named_in(sql)
    views = Views(ws, run, recomputed, named)
    views.need(named)
    for view, columns in {"examples": EXAMPLES, "influence": INFLUENCE, **TABLES, **LOADED}.items():
        if view not in named:
            views.con.execute(_empty(view, columns))
    return views.con


def _locked_to(files: set[str], mirrored: bool) -> duckdb.DuckDBPyConnection:
    """A connection that reads these files and nothing else, and whose settings nobody can change."""
    con = duckdb.connect()
    if mirrored:
        register(con)
    con.execute("SET python_enable_replacements = false")
    con.execute("SET autoinstall_known_extensions = false")
    con.execute("SET autoload_known_extensions = false")
    con.execute(f"SET allowed_paths = [{', '.join(_quote(p) for p in sorted(files))}]")
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")
    return con


def _statement(files: _Files, results: Sequence[dict[str, Any]], view: str) -> str:
    """How a view over files is made."""
    if view == "examples":
        return _examples(files, results)
    if view == "influence":
        return _influence(files, results)
    return _table(files, results, view, TABLES[view])


_TYPES = {
    "VARCHAR": pa.large_string(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
}


def _fields(view: str) -> list[tuple[str, pa.DataType]]:
    """Names and types of a result view's columns."""
    return [(name, _TYPES[type_]) for name, type_ in (c.split() for c in TABLES[view].split(","))]


def rows_table(view: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """The rows of a result view as a table with the view's columns; keys that it lacks are left out."""
    return pa.table({name: pa.array([r[name] for r in rows], type_) for name, type_ in _fields(view)})


def columns_table(view: str, columns: Mapping[str, pa.Array], alike: Mapping[str, Any]) -> pa.Table:
    """A result view's table from `columns` [n] and from values that all its rows share (`alike`)."""
    rows = len(next(iter(columns.values())))
    return pa.table(
        {
            name: columns[name] if name in columns else pa.repeat(pa.scalar(alike[name], type_), rows)
            for name, type_ in _fields(view)
        },
        schema=pa.schema(_fields(view)),
    )


class _Files:
    """Turns relative paths into a `read_parquet` source and remembers which files may be read."""

    def __init__(self, ws: Workspace) -> None:
        self.ws, self.used = ws, set[str]()

    def parquet(self, relative: Sequence[str]) -> str:
        files = [self.ws.root / r for r in relative]
        paths = [str(f) for f in files] if self.ws.mirror is None else [location(f) for f in files]
        self.used.update(paths)
        return f"read_parquet([{', '.join(_quote(p) for p in paths)}])"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _empty(name: str, columns: str) -> str:
    casts = []
    for column in columns.split(","):
        field, type_ = column.split()
        casts.append(f"CAST(NULL AS {type_}) AS {field}")
    return f"CREATE VIEW {name} AS SELECT {', '.join(casts)} WHERE false"


def _union(name: str, columns: str, selects: Sequence[str]) -> str:
    return f"CREATE VIEW {name} AS {' UNION ALL '.join(selects)}" if selects else _empty(name, columns)


def _examples(files: _Files, results: Sequence[dict[str, Any]]) -> str:
    """Rows of the data sets of the chosen runs; under several runs the latest reading of a row wins."""
    refs = {d["path"]: d for r in results for d in r["datasets"]}
    selects = []
    for order, (path, d) in enumerate(refs.items()):
        blocks = files.parquet(d["blocks"])
        selects.append(
            f"""SELECT v.example_id, {_quote(d["dataset"])} AS dataset, {_quote(d["role"])} AS role,
 v.split, v.task, v.source, v.source_id, v.row_number, v.label, b.prompt, b.response, b.content_hash,
 {order} AS reading
 FROM {files.parquet([path])} v JOIN {blocks} b USING (example_id, text_id)"""
        )
    if not selects:
        return _empty("examples", EXAMPLES)
    if len(selects) == 1:
        return f"CREATE VIEW examples AS SELECT * EXCLUDE (reading) FROM ({selects[0]})"
    union = " UNION ALL ".join(selects)
    return f"""CREATE VIEW examples AS SELECT * EXCLUDE (reading) FROM ({union})
 QUALIFY row_number() OVER (PARTITION BY example_id ORDER BY reading DESC) = 1"""


def _influence(files: _Files, results: Sequence[dict[str, Any]]) -> str:
    return _union("influence", INFLUENCE, [s for r in results for s in _influence_of(files, r)])


def _influence_of(files: _Files, r: dict[str, Any]) -> list[str]:
    """Exact pairs, and estimated pairs that have no exact value, joined to the rows that hold them."""
    m = r["matrix"]
    # A run that prunes classification data has no matrix.
    if not m["exact"] and not m["estimates"]:
        return []
    members = files.parquet([m["members"]])
    only = f" AND example_id IN ({', '.join(map(str, m['only']))})" if "only" in m else ""
    rows = f"(SELECT * FROM {members} WHERE side = 'row' AND candidate{only})"
    columns = f"(SELECT * FROM {members} WHERE side = 'column')"
    quadrant = """CASE WHEN r.labelled AND c.labelled THEN 'Q1' WHEN r.labelled THEN 'Q2'
 WHEN c.labelled THEN 'Q3' ELSE 'Q4' END"""
    if m.get("design") == "scattered":
        quadrant = "CAST(NULL AS VARCHAR)"
    parts = []
    exact = ""
    if m["exact"]:
        exact = f"""(SELECT row_content, column_content, min(value) AS value
 FROM {files.parquet(m["exact"])} GROUP BY ALL)"""
        parts.append((exact, "'exact'", "NULL", "", "0"))
    if m["estimates"]:
        anti = f"ANTI JOIN {exact} e USING (row_content, column_content)" if exact else ""
        origin = "'estimated'" if m.get("learned", True) else "'baseline'"
        width = m.get("half_width")
        half = "NULL" if width is None else repr(float(width))
        parts.append((files.parquet(m["estimates"]), origin, _quote(m["predictor"]), anti, half))
    return [
        f"""SELECT {_quote(r["run_id"])} AS run_id, {_quote(m["function"])} AS function,
 {quadrant} AS quadrant, {origin} AS origin, CAST({predictor} AS VARCHAR) AS predictor,
 r.example_id AS train_id,
 c.example_id AS target_id, s.value AS influence, CAST(s.value - {half} AS FLOAT) AS lower,
 CAST(s.value + {half} AS FLOAT) AS upper
 FROM (SELECT * FROM {source} {anti}) s
 JOIN {rows} r ON r.content_id = s.row_content JOIN {columns} c ON c.content_id = s.column_content"""
        for source, origin, predictor, anti, half in parts
    ]


def _table(files: _Files, results: Sequence[dict[str, Any]], name: str, columns: str) -> str:
    paths = [r["tables"][name] for r in results if name in r["tables"]]
    selects = [f"SELECT {_present(files, p, columns)} FROM {files.parquet([p])}" for p in paths]
    return _union(name, columns, selects)


def _present(files: _Files, path: str, columns: str) -> str:
    """The view's columns; NULL for one that came after the file was written."""
    file, names = files.ws.root / path, [c.split()[0] for c in columns.split(",")]
    # A lost file is named when it is read.
    known = set(pq.read_schema(file).names if file.is_file() else names)
    pairs = [c.split() for c in columns.split(",")]
    return ", ".join(n if n in known else f"CAST(NULL AS {t}) AS {n}" for n, t in pairs)


def _facts(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What a run wants known of itself: numbers in `value`, all else in `text`."""
    rows = []
    for name, fact in result["facts"].items():
        number = float(fact) if isinstance(fact, int | float) else None
        text = None if number is not None else fact if isinstance(fact, str) else json.dumps(fact)
        rows.append({"run_id": result["run_id"], "fact": name, "value": number, "text": text})
    return rows


def _run_row(attempt: dict[str, Any]) -> dict[str, Any]:
    return {
        **attempt,
        "config": json.dumps(attempt["config"], ensure_ascii=False),
        "versions": json.dumps(attempt["versions"]),
    }


def read_lineage(ws: Workspace) -> list[dict[str, Any]]:
    """Every manifest of the workspace, oldest first; run_id and attempt are NULL where nothing says them."""
    rows = []
    for path in ws.root.rglob(f"*{MANIFEST_SUFFIX}"):
        row = json.loads(Path(path).read_text(encoding="utf-8"))
        run_id, attempt = attempt_of(row.get("made_in", ""))
        rows.append({**row, "run_id": run_id or None, "attempt": attempt})
    return sorted(rows, key=lambda r: (r["created_at"], r["artifact"]))


def _load(con: duckdb.DuckDBPyConnection, name: str, columns: str, rows: list[dict[str, Any]]) -> None:
    """A small table from Python rows; only the columns that `columns` declares."""
    con.execute(f"CREATE TABLE {name} ({columns})")
    if not rows:
        return
    names = [c.split()[0] for c in columns.split(",")]
    table = pa.table({n: [row.get(n) for row in rows] for n in names})
    con.register("_rows", table)
    con.execute(f"INSERT INTO {name} SELECT * FROM _rows")
    con.unregister("_rows")
