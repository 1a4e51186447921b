"""What a person sees in the terminal after a run or a query."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nncift_core.report.notes import NOTES
from nncift_core.store.query import rows
from nncift_core.store.workspace import Workspace
from nncift_core.text import one_line

if TYPE_CHECKING:
    from flows.valuation import ValuationResult

MAX_ROWS = 200
CELL = 80


def show(result: ValuationResult) -> None:
    """Quality, subset by source, costs, where things are, what to try next."""
    console = _console()
    facts = result.facts
    if result.quality:
        _heading(console, "Estimates against exact values: all audit pairs, then each part")
        console.print(_quality(result.quality))
        console.print(Text(_verdicts(result)), soft_wrap=True)
    _heading(
        console,
        f"Subset: {result.selected:,} of {result.pool_rows:,} rows by {facts['rule']}{_gains(facts)}",
    )
    console.print(_subset(result))
    if "test_rows" in facts:
        _heading(console, _comparison_heading(result))
        console.print(_comparison(result))
        console.print(Text(_comparison_verdicts(result)), soft_wrap=True)
    _heading(console, "Costs")
    console.print(_costs(result.costs))
    for line in _notes(result):
        console.print(Text(line), soft_wrap=True)
    places = [
        f"\nreport     {_near(result.report)}",
        f"subset     {_near(result.subset)}",
        *([f"adapter    {_near(result.adapter)}"] if result.adapter else []),
        f"workspace  {_near(result.workspace)}",
        f"run        {result.run_id}, attempt {result.attempt}; graph and artifacts: {result.ui_url}",
    ]
    console.print(Text("\n".join(places)), soft_wrap=True)
    console.print(Text(_next_steps(result)), soft_wrap=True)
    if "estimator_verdict" in facts:
        style = {"trusted": "green", "refused": "bold red"}.get(facts["estimator_verdict"], "yellow")
        console.print(Text(_trust(facts), style=style), soft_wrap=True)


def show_second(result: ValuationResult, second: ValuationResult) -> None:
    """The same pool under another target: subsets by source side by side, and how many rows they share."""
    ws = Workspace.open(result.workspace)
    counts: dict[str, dict[str, int]] = {}
    chosen = []
    for r in (result, second):
        sql = """SELECT coalesce(source, dataset) AS source, train_id FROM selection
 JOIN examples ON train_id = example_id"""
        found = rows(ws, sql, r.run_id)
        chosen.append({f["train_id"] for f in found})
        for f in found:
            counts.setdefault(f["source"], {}).setdefault(r.run_id, 0)
            counts[f["source"]][r.run_id] += 1
    console = _console()
    names = [_target_name(ws, r) for r in (result, second)]
    shared = len(chosen[0] & chosen[1])
    _heading(console, f"Another target, another subset: {shared:,} of {result.selected:,} rows are in both")
    table = Table()
    table.add_column("source")
    for name in names:
        table.add_column(Text(f"for {name}"), justify="right")
    for source in sorted(counts, key=lambda s: -counts[s].get(result.run_id, 0)):
        numbers = [f"{counts[source].get(r.run_id, 0):,}" for r in (result, second)]
        table.add_row(Text(one_line(source, CELL)), *numbers)
    console.print(table)


def _target_name(ws: Workspace, result: ValuationResult) -> str:
    sql = "SELECT string_agg(DISTINCT dataset, ', ') AS name FROM examples WHERE role = 'target'"
    return one_line(str(rows(ws, sql, result.run_id)[0]["name"] or "itself"), 40)


def _heading(console: Console, text: str) -> None:
    console.print(Text(text, style="bold"), soft_wrap=True)


def _gains(facts: dict[str, Any]) -> str:
    """How many picks helped; under top-k that is the sign of their score."""
    what = "a score above 0" if facts["rule"] == "top-k" else "positive gain"
    ties = f", {facts['tied_steps']:,} ties" if facts["tied_steps"] else ""
    return f", {facts['positive_gain']:,} with {what}{ties}"


def _next_steps(result: ValuationResult) -> str:
    option = f"--workspace {shlex.quote(_near(result.workspace))}"
    values = (
        "SELECT origin, count(*) AS rows, avg(score) AS mean FROM scores GROUP BY ALL"
        if result.facts["kind"] == "pointwise"
        else "SELECT quadrant, origin, count(*) AS pairs, avg(influence) AS mean FROM influence GROUP BY ALL"
    )
    queries = (
        "SELECT rank, gain, prompt FROM selection JOIN examples ON train_id = example_id "
        "ORDER BY rank LIMIT 10",
        values,
    )
    nncift = _command()
    asked = "".join(f'  {nncift} query "{q}" {option}\n' for q in queries)
    return f"\nTry next:\n{asked}  {nncift} server status"


def _command() -> str:
    """What to type to call this program again: its name when the shell finds it, else its path."""
    if shutil.which("nncift"):
        return "nncift"
    return shlex.quote(_near(str(Path(sys.executable).with_name("nncift"))))


def _near(path: str) -> str:
    """`path` from the current directory when it lies below it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _console() -> Console:
    """Rich output as wide as the terminal; 120 columns where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def _number(value: Any, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _quality(quality: list[dict[str, Any]]) -> Table:
    """Every predictor on all audit pairs, then the estimator part by part; fits 80 columns."""
    table = Table()
    for name in ("", "predictor", "pairs", "R2", "Spearman", "90 % interval", "top 10 %"):
        table.add_column(name, justify="left" if name in ("", "predictor") else "right", no_wrap=True)
    pooled = [q for q in quality if q["target_task"] == "all" and q["quadrant"] == "all"]
    parts = [q for q in quality if q["target_task"] == "all" and q["quadrant"] != "all"]
    for part in (pooled, [q for q in parts if q["role"] == "estimator"]):
        last = None
        for q in part:
            interval = (
                f"{_number(q['lower'], 2)}..{_number(q['upper'], 2)}" if q["lower"] is not None else "-"
            )
            first = q["quadrant"] if q["quadrant"] != last else ""
            numbers = [f"{q['n_pairs']:,}", _number(q["r2"], 2), _number(q["spearman"], 2), interval]
            table.add_row(first, q["predictor"], *numbers, _number(q["recall_at_k"], 2))
            last = q["quadrant"]
        table.add_section()
    return table


_PARTS = {
    "Q1": "labelled row x labelled target: fitted on",
    "Q2": "labelled row x other target",
    "Q3": "other row x labelled target",
    "Q4": "other row x other target",
    "labels": "labelled pairs: fitted on",
    "unseen": "pairs without a label",
}


_OF_ROWS = {**_PARTS, "Q1": "labelled rows: fitted on", "Q3": "rows without a label"}


def _verdicts(result: ValuationResult) -> str:
    """What the parts of the table are, and who was chosen for what reason."""
    shown = dict.fromkeys(q["quadrant"] for q in result.quality if q["quadrant"] in _PARTS)
    parts = _OF_ROWS if result.facts["kind"] == "pointwise" else _PARTS
    lines = ["; ".join(f"{part}: {parts[part]}" for part in shown)]
    if result.facts.get("estimator_choice"):
        lines.append(f"chosen: {result.facts['estimator_choice']}")
    return "\n".join(lines) + "\n"


def _trust(facts: dict[str, Any]) -> str:
    """The last line: whether the estimates may be trusted, and what selected in their place if not."""
    line = f"estimates by {facts['estimator']}: {facts['estimator_verdict']}: {facts['estimator_reason']}"
    if facts["estimator_used"] != facts["estimator"]:
        line += f"; the subset rests on exact values and the baseline {facts['estimator_used']!r} instead"
    return line


def _subset(result: ValuationResult) -> Table:
    sql = """SELECT coalesce(source, dataset) AS source, count(*) AS rows, count(s.train_id) AS chosen,
 min(s.rank) AS best_rank FROM examples e LEFT JOIN selection s ON s.train_id = e.example_id
 WHERE role = 'pool' GROUP BY 1 ORDER BY chosen DESC, 1 LIMIT 15"""
    table = Table()
    for name in ("source", "in pool", "chosen", "share of source", "best rank"):
        table.add_column(name, justify="left" if name == "source" else "right")
    for r in rows(Workspace.open(result.workspace), sql, result.run_id):
        share, rank = f"{100 * r['chosen'] / r['rows']:.0f} %", str(r["best_rank"] or "-")
        table.add_row(Text(one_line(r["source"], CELL)), f"{r['rows']:,}", f"{r['chosen']:,}", share, rank)
    return table


def _comparison_heading(result: ValuationResult) -> str:
    n = result.facts["test_rows"] - result.facts["test_rows_repeated"]
    return f"Fine-tuned, and asked {n:,} held-out rows (means over seeds)"


def _comparison(result: ValuationResult) -> Table:
    """One line per subset: what it was trained on and what the model then scores."""
    sql = """SELECT subset, count(DISTINCT seed) AS seeds, avg(n_train) AS rows, avg(n_tokens) AS tokens,
 avg(value) FILTER (metric = 'loss') AS loss, avg(value) FILTER (metric = 'rouge1') AS rouge1,
 avg(value) FILTER (metric = 'rougeL') AS rougeL
 FROM evaluation WHERE task = 'all' GROUP BY subset ORDER BY loss, rougeL DESC, subset"""
    found = rows(Workspace.open(result.workspace), sql, result.run_id)
    table = Table()
    for name in ("trained on", "rows", "tokens", "loss", "ROUGE-1", "ROUGE-L"):
        table.add_column(name, justify="left" if name == "trained on" else "right", no_wrap=True)
    for r in found:
        name = {"base": "nothing (base)", "random-tokens": "random (tokens)"}.get(r["subset"], r["subset"])
        sizes = [f"{r['rows']:,.0f}", f"{r['tokens']:,.0f}"]
        style = "bold" if r["subset"] == "selected" else None
        numbers = [_number(r[m]) for m in ("loss", "rouge1", "rougeL")]
        table.add_row(name, *sizes, *numbers, style=style)
    return table


def _comparison_verdicts(result: ValuationResult) -> str:
    """What the differences allow to say, in a line per rival: of the loss where there is one."""
    if not result.comparison:
        return "no rival was asked for: name some in evaluation.subsets\n"
    first = result.comparison[0]["metric"]
    lines = []
    for c in result.comparison:
        if c["task"] != "all" or c["metric"] != first:
            continue
        interval = (
            "no interval" if c["lower"] is None else f"90 % interval {c['lower']:.3f}..{c['upper']:.3f}"
        )
        lines.append(f"selected against {c['against']}: gain {c['gain']:.3f}, {interval}: {c['verdict']}")
    return "\n".join(lines) + "\n"


def _costs(costs: list[dict[str, Any]]) -> Table:
    table = Table()
    for name in ("stage", "items", "computed", "reused", "seconds", "peak MB"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for c in costs:
        numbers = [f"{c[k]:,}" for k in ("items", "computed", "reused")]
        table.add_row(c["stage"], *numbers, f"{c['seconds']:.1f}", f"{c['peak_rss_mb']:,.0f}")
    total = sum(c["seconds"] for c in costs)
    table.add_section()
    table.add_row("all", "", "", "", f"{total:.1f}", f"{max(c['peak_rss_mb'] for c in costs):,.0f}")
    return table


def _notes(result: ValuationResult) -> list[str]:
    facts = result.facts
    notes = []
    for key, text in NOTES.items():
        if facts.get(key):
            notes.append(f"note: {facts[key]:,} {text}")
    if facts.get("labels_kept_from_earlier_run"):
        notes.append("note: labels and estimator of an earlier run were kept (the pool changed little)")
    if facts.get("state_kept_from_earlier_run"):
        notes.append("note: the function's preparation of an earlier run was kept (the pool changed little)")
    if facts.get("learning_pointless"):
        notes.append(
            "note: exact values of this function cost next to nothing, so all were computed and nothing was "
            "learned"
        )
    if facts.get("exact_is_cheap"):
        notes.append(
            "note: exact values of this function cost next to nothing: label_fraction = 1 computes all"
        )
    first, last = facts.get("state_first_loss"), facts.get("state_last_loss")
    if first is not None and last is not None and last > first:
        notes.append(f"note: the warm-up's loss rose from {first:.3f} to {last:.3f}: lower its learning_rate")
    idle = result.selected - facts["positive_gain"]
    if idle and facts["rule"] == "top-k":
        notes.append(f"note: {idle:,} chosen rows have a score of 0 or below: they are not thought to help")
    elif idle:
        notes.append(f"note: {idle:,} picks added nothing to the objective; a smaller subset covers as much")
    return notes


def show_rows(table: pa.Table) -> None:
    """A result table; at most MAX_ROWS rows, and it says so when there are more."""
    console = _console()
    shown = Table()
    for name in table.column_names:
        shown.add_column(Text(one_line(name, CELL)), overflow="fold")
    for row in table.slice(0, MAX_ROWS).to_pylist():
        shown.add_row(*(Text(_cell(row[name])) for name in table.column_names))
    console.print(shown)
    if len(table) > MAX_ROWS:
        console.print(f"{MAX_ROWS} of {len(table):,} rows shown; --json prints all")


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return one_line(text, CELL)
