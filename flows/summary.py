"""What a person sees in the terminal after a run."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from flows import terminal
from flows.terminal import CELL, command, heading, near, number
from nncift_core.evaluation import METRICS
from nncift_core.report.notes import notes_of
from nncift_core.store.query import rows
from nncift_core.store.workspace import Workspace
from nncift_core.text import one_line

if TYPE_CHECKING:
    from flows.valuation import ValuationResult


def show(result: ValuationResult) -> None:
    """Quality, subset by source, costs, where things are, what to try next."""
    console = terminal.console()
    facts = result.facts
    if result.quality:
        heading(console, "Estimates against exact values: all audit pairs, then each part")
        console.print(_quality(result.quality))
        console.print(Text(_verdicts(result)), soft_wrap=True)
    heading(
        console,
        f"Subset: {result.selected:,} of {result.pool_rows:,} rows by {facts['rule']}{_gains(facts)}",
    )
    console.print(_subset(result))
    if "test_rows" in facts:
        heading(console, _comparison_heading(result))
        console.print(_comparison(result))
        console.print(Text(_comparison_verdicts(result)), soft_wrap=True)
    heading(console, "Costs")
    console.print(_costs(result.costs))
    for line in [*_forecast(result), *_notes(result)]:
        console.print(Text(line), soft_wrap=True)
    places = [
        f"\nreport     {near(result.report)}",
        f"subset     {near(result.subset)}",
        *([f"adapter    {near(result.adapter)}"] if result.adapter else []),
        f"workspace  {near(result.workspace)}",
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
    console = terminal.console()
    names = [_target_name(ws, r) for r in (result, second)]
    shared = len(chosen[0] & chosen[1])
    heading(console, f"Another target, another subset: {shared:,} of {result.selected:,} rows are in both")
    table = terminal.columns(("source", *(f"for {name}" for name in names)), left=("source",))
    for source in sorted(counts, key=lambda s: -counts[s].get(result.run_id, 0)):
        numbers = [f"{counts[source].get(r.run_id, 0):,}" for r in (result, second)]
        table.add_row(Text(one_line(source, CELL)), *numbers)
    console.print(table)


def _target_name(ws: Workspace, result: ValuationResult) -> str:
    sql = "SELECT string_agg(DISTINCT dataset, ', ') AS name FROM examples WHERE role = 'target'"
    return one_line(str(rows(ws, sql, result.run_id)[0]["name"] or "itself"), 40)


def _gains(facts: dict[str, Any]) -> str:
    """How many picks helped; under top-k that is the sign of their score."""
    what = "a score above 0" if facts["rule"] == "top-k" else "positive gain"
    ties = f", {facts['tied_steps']:,} ties" if facts["tied_steps"] else ""
    return f", {facts['positive_gain']:,} with {what}{ties}"


def _next_steps(result: ValuationResult) -> str:
    option = f"--workspace {shlex.quote(near(result.workspace))}"
    values = (
        "SELECT origin, count(*) AS rows, avg(score) AS mean FROM scores GROUP BY ALL"
        if result.facts["kind"] == "pointwise" or result.facts["store_matrix"] != "all"
        else "SELECT quadrant, origin, count(*) AS pairs, avg(influence) AS mean FROM influence GROUP BY ALL"
    )
    queries = (
        "SELECT rank, gain, prompt FROM selection JOIN examples ON train_id = example_id "
        "ORDER BY rank LIMIT 10",
        values,
    )
    asked = "".join(f'  {command()} query "{q}" {option}\n' for q in queries)
    return f"\nTry next:\n{asked}  {command()} server status"


def _quality(quality: list[dict[str, Any]]) -> Table:
    """Every predictor on all audit pairs, then the estimator part by part; fits 80 columns."""
    names = ("", "predictor", "pairs", "R2", "Spearman", "90 % interval", "top 10 %")
    table = terminal.columns(names, left=("", "predictor"), wrap=False)
    pooled = [q for q in quality if q["target_task"] == "all" and q["quadrant"] == "all"]
    parts = [q for q in quality if q["target_task"] == "all" and q["quadrant"] != "all"]
    for part in (pooled, [q for q in parts if q["role"] == "estimator"]):
        last = None
        for q in part:
            interval = f"{number(q['lower'], 2)}..{number(q['upper'], 2)}" if q["lower"] is not None else "-"
            first = q["quadrant"] if q["quadrant"] != last else ""
            numbers = [f"{q['n_pairs']:,}", number(q["r2"], 2), number(q["spearman"], 2), interval]
            table.add_row(first, q["predictor"], *numbers, number(q["recall_at_k"], 2))
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
    names = ("source", "in pool", "chosen", "share of source", "best rank")
    table = terminal.columns(names, left=("source",))
    for r in rows(Workspace.open(result.workspace), sql, result.run_id):
        share, rank = f"{100 * r['chosen'] / r['rows']:.0f} %", str(r["best_rank"] or "-")
        table.add_row(Text(one_line(r["source"], CELL)), f"{r['rows']:,}", f"{r['chosen']:,}", share, rank)
    return table


def _comparison_heading(result: ValuationResult) -> str:
    n = result.facts["test_rows"] - result.facts["test_rows_repeated"]
    return f"Asked {n:,} held-out rows (means over seeds)"


def _comparison(result: ValuationResult) -> Table:
    """One line per subset and mode: what it was trained on and what the model then scores."""
    sql = """SELECT subset, mode, metric, avg(n_train) AS rows, avg(n_tokens) AS tokens, avg(value) AS value
 FROM evaluation WHERE task = 'all' GROUP BY subset, mode, metric"""
    found = rows(Workspace.open(result.workspace), sql, result.run_id)
    metrics = [m for m in METRICS if any(r["metric"] == m for r in found)]
    table = terminal.columns(("trained on", "rows", "tokens", *metrics), left=("trained on",), wrap=False)
    by = {(r["subset"], r["mode"], r["metric"]): r for r in found}
    first = METRICS[metrics[0]]
    kinds = {(r["subset"], r["mode"]): r for r in found if r["metric"] == first.name}
    sign = -1 if first.higher_is_better else 1
    for (subset, mode), r in sorted(kinds.items(), key=lambda k: (sign * (k[1]["value"] or 0), k[0])):
        name = {"base": "nothing (base)", "random-tokens": "random (tokens)"}.get(subset, subset)
        shown = name if mode != "icl" else f"{name}, in context"
        tokens = "-" if r["tokens"] is None else f"{r['tokens']:,.0f}"
        numbers = [number(by[subset, mode, m]["value"]) if (subset, mode, m) in by else "-" for m in metrics]
        style = "bold" if subset == "selected" else None
        table.add_row(shown, f"{r['rows']:,.0f}", tokens, *numbers, style=style)
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
        where = ", in context" if c["mode"] == "icl" else ""
        lines.append(
            f"selected against {c['against']}{where}: gain {c['gain']:.3f}, {interval}: {c['verdict']}"
        )
    return "\n".join(lines) + "\n"


def _costs(costs: list[dict[str, Any]]) -> Table:
    table = terminal.columns(("stage", "items", "computed", "reused", "seconds", "peak MB"), left=("stage",))
    for c in costs:
        numbers = [f"{c[k]:,}" for k in ("items", "computed", "reused")]
        table.add_row(c["stage"], *numbers, f"{c['seconds']:.1f}", f"{c['peak_rss_mb']:,.0f}")
    total = sum(c["seconds"] for c in costs)
    table.add_section()
    table.add_row("all", "", "", "", f"{total:.1f}", f"{max(c['peak_rss_mb'] for c in costs):,.0f}")
    return table


def _forecast(result: ValuationResult) -> list[str]:
    """How good the forecast of `nncift plan --calibrate` was, where this attempt followed one."""
    sql = f"""SELECT forecast_seconds, seconds, forecast_disk_mb, disk_mb FROM forecast
 WHERE stage = 'all' AND attempt = {result.attempt}"""
    return [
        f"forecast {f['forecast_seconds']:,.0f} s and {f['forecast_disk_mb']:,.1f} MB, "
        f"took {f['seconds']:,.0f} s and {f['disk_mb']:,.1f} MB (the view `forecast` has every stage)"
        for f in rows(Workspace.open(result.workspace), sql, result.run_id)
    ]


def _notes(result: ValuationResult) -> list[str]:
    facts = result.facts
    notes = [f"note: {text}" for text in notes_of(facts)]
    first, last = facts.get("state_first_loss"), facts.get("state_last_loss")
    if first is not None and last is not None and last > first:
        notes.append(f"note: the warm-up's loss rose from {first:.3f} to {last:.3f}: lower its learning_rate")
    idle = result.selected - facts["positive_gain"]
    if idle and facts["rule"] == "top-k":
        notes.append(f"note: {idle:,} chosen rows have a score of 0 or below: they are not thought to help")
    elif idle:
        notes.append(f"note: {idle:,} picks added nothing to the objective; a smaller subset covers as much")
    return notes
