"""What a person sees in the terminal after a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows import terminal
from flows.terminal import command, heading, near, number
from nncift_core.evaluation import METRICS
from nncift_core.pipeline.compare_costs import COST_GROUPS, grouped
from nncift_core.report.notes import notes_of
from nncift_core.text import one_line

if TYPE_CHECKING:
    from flows.compare import CompareResult

_NAME = 26
# So that the table of costs fits 80 columns.
_SHORT = {"embeddings": "embed", "features": "feat.", "prediction": "pred.", "selection": "pick"}
_MARK = {"better": "> ", "worse": "< "}


def show_compare(result: CompareResult) -> None:
    """The models of every subset, what estimates keep, what methods cost, where everything is."""
    console = terminal.console()
    f = result.facts
    heading(
        console,
        f"{f['selected_rows']:,} of {f['pool_rows']:,} rows, {f['seeds']} seeds, "
        f"{f['test_rows']:,} held-out rows",
    )
    for note in notes_of(f):
        console.print(Text(f"note: {note}"), soft_wrap=True)
    pooled = [r for r in result.summary if r["task"] == "all"]
    for mode in dict.fromkeys(r["mode"] for r in pooled):
        heading(console, f"\nMode {mode}")
        console.print(_scores([r for r in pooled if r["mode"] == mode]))
    console.print(
        Text("> better, < worse than random rows: a 90 % interval over seeds and held-out rows without zero.")
    )
    for line in kept_lines(pooled, f["kept_note"]):
        console.print(Text(line), soft_wrap=True)
    heading(console, "\nWhat values cost, in seconds, if nothing had been stored")
    console.print(_costs(result))
    for line in even_lines(result.methods):
        console.print(Text(line), soft_wrap=True)
    _where(console, result)


def _scores(rows: list[dict[str, Any]]) -> Table:
    """A line per subset, a column per metric; best first by the first metric."""
    metrics = [m for m in METRICS if any(r["metric"] == m for r in rows)]
    table = terminal.columns(("subset", *metrics), left=("subset",), wrap=False)
    by = {(r["method"], r["metric"]): r for r in rows}
    for name in sorted({r["method"] for r in rows}, key=lambda n: _rank(by, n, metrics[0])):
        table.add_row(Text(one_line(name, _NAME)), *(_score(by.get((name, m))) for m in metrics))
    return table


def _rank(by: dict[tuple[str, str], dict[str, Any]], name: str, metric: str) -> float:
    row = by.get((name, metric))
    if row is None:
        return float("inf")
    return -float(row["value"]) if METRICS[metric].higher_is_better else float(row["value"])


def _score(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    return _MARK.get(str(row["verdict"]), "") + number(row["value"])


def kept_lines(pooled: list[dict[str, Any]], note: str) -> list[str]:
    """What the estimated subsets keep of the gain of the exact ones, or why that cannot be said."""
    lines = [f"{note[0].upper()}{note[1:]}."] if note else []
    for row in pooled:
        if row["kept"] is not None:
            where = f"{row['mode']}, {row['metric']}"
            lines.append(f"{row['method']} keeps {row['kept']:.0%} of the gain of exact values ({where})")
    return lines


def _costs(result: CompareResult) -> Table:
    groups = [g for g in COST_GROUPS if any(r["stage"] in COST_GROUPS[g] for r in result.method_costs)]
    short = (_SHORT.get(group, group) for group in groups)
    table = terminal.columns(("method", *short, "sum"), left=("method",), wrap=False)
    for method in result.methods:
        found = grouped(result.method_costs, method["method"])
        cells = [_seconds(found.get(g)) for g in groups]
        table.add_row(Text(one_line(method["method"], _NAME)), *cells, _seconds(method["seconds"]))
    return table


def _seconds(value: float | None) -> str:
    return number(value, 1 if value is None or value < 100 else 0)


def even_lines(methods: list[dict[str, Any]]) -> list[str]:
    """From which pool size on estimating is cheaper than exact values."""
    lines = []
    for m in methods:
        if m["never_pays"]:
            lines.append(f"{m['method']}: a row costs more to estimate than to compute, so it never pays")
        elif m["break_even_rows"] is not None:
            lines.append(
                f"{m['method']}: cheaper than exact values from {m['break_even_rows']:,.0f} pool rows on"
            )
    return lines


def _where(console: Console, result: CompareResult) -> None:
    option = f"--workspace {near(result.workspace)}"
    sql = "SELECT method, task, metric, value, gain, verdict FROM compare_summary"
    places = [
        f"\nreport     {near(result.report)}",
        f"workspace  {near(result.workspace)}",
        f"run        {result.run_id}, attempt {result.attempt}; graph and artifacts: {result.ui_url}",
        "\nTry next:",
        f'  {command()} query "{sql}" {option}',
    ]
    console.print(Text("\n".join(places)), soft_wrap=True)
