"""What a person sees in the terminal after a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows import terminal
from flows.terminal import CELL, command, heading, near, number
from nncift_core.text import one_line

if TYPE_CHECKING:
    from flows.sweep import SweepResult


def show_sweep(result: SweepResult) -> None:
    """Means over draws and their spread, what could not be fitted, where the page is."""
    console = terminal.console()
    f = result.facts
    size = f"{f['rows']:,} x {f['columns']:,} exact values, unseen pairs, means over draws of the labels"
    if result.study == "figures":
        heading(console, f"Estimates by share of labelled rows and columns ({size})")
        console.print(_curves(result.summary["labels"]))
        heading(console, f"Share of the gain that a subset by {f['rule']} keeps (1: as on exact values)")
        console.print(_gains(result.summary["subsets"]))
    else:
        heading(console, f"Estimators at the price of a block of u = {f['budget']:g} ({size})")
        designs = {name: rows for name, rows in result.summary.items() if name != "groups"}
        for design, rows in designs.items():
            own = ", the job's own" if design == f["design"] else ""
            heading(console, f"Labels: {design}{own}")
            console.print(_tournament(rows))
        if result.summary["groups"]:
            heading(console, f"What {f['default']} loses without a group of features, on the same labels")
            console.print(_groups(result.summary["groups"]))
    _failed(console, result.failed)
    option = f"--workspace {near(result.workspace)} --run {result.run_id}"
    sql = "SELECT predictor, u, metric, avg(value) FROM sweep GROUP BY ALL ORDER BY ALL"
    lines = [
        f"\n{f['fits_computed']:,} of {f['fits']:,} fits were made now; the others were kept",
        f"page       {near(result.report)}",
        f"run        {result.run_id}, attempt {result.attempt}; graph and artifacts: {result.ui_url}",
        f'\nTry next:\n  {command()} query "{sql}" {option}',
    ]
    console.print(Text("\n".join(lines)), soft_wrap=True)


def _curves(rows: list[dict[str, Any]]) -> Table:
    """A block of lines per u."""
    names = ("u", "predictor", "R2", "Spearman", "within targets", "top 10 %")
    table = _table(names)
    last = None
    for r in rows:
        if last not in (None, r["u"]):
            table.add_section()
        u = "" if r["u"] == last else f"{r['u']:g}"
        numbers = [
            number(r["r2"], 2),
            _spread(r, "spearman"),
            number(r["per_target"], 2),
            number(r["recall"], 2),
        ]
        table.add_row(u, Text(one_line(r["predictor"], CELL)), *numbers)
        last = r["u"]
    return table


def _gains(rows: list[dict[str, Any]]) -> Table:
    """A line per estimator and v, a column per u."""
    us = sorted({r["u"] for r in rows})
    table = _table(("predictor", "v", *(f"u = {u:g}" for u in us)))
    by = {(r["predictor"], r["v"], r["u"]): r for r in rows}
    for name, v in dict.fromkeys((r["predictor"], r["v"]) for r in rows):
        found = [by.get((name, v, u)) for u in us]
        table.add_row(
            Text(one_line(name, CELL)), f"{v:g}", *("-" if r is None else _spread(r, "gained") for r in found)
        )
    return table


def _tournament(rows: list[dict[str, Any]]) -> Table:
    names = ("", "predictor", "R2", "Spearman", "top rows", "share of gain", "fit s")
    table = _table(names)
    for place, r in enumerate(rows, 1):
        numbers = [number(r["r2"], 2), _spread(r, "spearman"), number(r["top_rows"], 2), _spread(r, "gained")]
        table.add_row(str(place), Text(one_line(r["predictor"], CELL)), *numbers, number(r["fit_seconds"], 2))
    return table


def _groups(rows: list[dict[str, Any]]) -> Table:
    table = _table(("", "Spearman lost", "R2 lost", "share of gain lost"))
    for r in rows:
        table.add_row(r["setting"], _spread(r, "lost"), number(r["lost_r2"], 2), number(r["lost_gain"], 2))
    return table


def _table(names: tuple[str, ...]) -> Table:
    return terminal.columns(names, left=("u", "predictor", ""), wrap=False)


def _spread(row: dict[str, Any], name: str) -> str:
    """Mean and standard deviation over draws."""
    spread = row[f"{name}_spread"]
    return number(row[name], 2) + ("" if spread is None or row[name] is None else f" +- {spread:.2f}")


def _failed(console: Console, failed: list[dict[str, Any]]) -> None:
    """A line per reason, with how many fits it stopped."""
    counts: dict[tuple[str, str], int] = {}
    for f in failed:
        key = (f["predictor"], f["note"])
        counts[key] = counts.get(key, 0) + 1
    for (predictor, note), n in counts.items():
        text = f"not fitted: {predictor} ({n} fits): {note}"
        console.print(Text(one_line(text, 200)), soft_wrap=True)
