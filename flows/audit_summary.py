"""What a person sees in the terminal after an audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from flows import terminal
from flows.terminal import command, heading, near, number
from nncift_core.text import one_line

if TYPE_CHECKING:
    from flows.audit import AuditResult

# So that every table fits 80 columns.
_NAME = 21


def show_audit(result: AuditResult) -> None:
    """A line per method: what models say of its values, what it finds; then where everything is."""
    console = terminal.console()
    f = result.facts
    heading(console, f"{f['pool_rows']:,} pool rows, {f['queries']:,} queries, {f['models']:,} models; "
                     "90 % intervals")  # fmt: skip
    pooled = [r for r in result.measures if r["target_task"] == "all"]
    lds, removed = _named(pooled, ("lds",)), _named(pooled, ("qld", "top-k"))
    planted = [r for r in pooled if r["metric"].startswith(("wrong", "duplicate"))]
    if lds:
        console.print(_lds(lds))
        console.print(Text(_about_losses(f)), soft_wrap=True)
    if removed:
        heading(
            console, "\nRise of the loss without the best rows (by value for the query, or by mean value),"
        )
        heading(console, "beyond that without as many random rows")
        console.print(_removed(removed))
    if planted:
        heading(console, f"\nPlanted: {f['planted_wrong']:,} wrong answers, {f['planted_copies']:,} copies")
        console.print(_planted(planted))
    if f["default_finetune"]:
        console.print(Text("note: no section [finetune]: models were trained with its defaults"))
    if f["queries_in_pool"]:
        text = f"note: {f['queries_in_pool']:,} queries stand in the pool already and were not copied into it"
        console.print(Text(text), soft_wrap=True)
    option = f"--workspace {near(result.workspace)} --run {result.run_id}"
    sql = "SELECT method, metric, share, value, lower, upper FROM attribution ORDER BY ALL"
    lines = [
        f"\npage       {near(result.report)}",
        f"run        {result.run_id}, attempt {result.attempt}; graph and artifacts: {result.ui_url}",
        f'\nTry next:\n  {command()} query "{sql}" {option}',
    ]
    console.print(Text("\n".join(lines)), soft_wrap=True)


def _named(rows: list[dict[str, Any]], metrics: tuple[str, ...]) -> list[dict[str, Any]]:
    return [r for r in rows if r["metric"] in metrics]


def _lds(rows: list[dict[str, Any]]) -> Table:
    table = terminal.columns(("method", "LDS", "90 % interval"), left=("method",), wrap=False)
    for r in rows:
        table.add_row(_cell(r["method"]), number(r["value"], 3), _interval(r))
    return table


def _about_losses(f: dict[str, Any]) -> str:
    """Whether training moved the losses that LDS ranks."""
    text = (
        f"Mean loss of the queries: {number(f['loss_untrained'])} untrained, {number(f['loss_trained'])} "
        f"trained, {number(f['loss_spread'], 4)} standard deviation over {f['subset_models']:,} models."
    )
    agreement = f["seed_agreement"]
    return text if agreement is None else f"{text} Two seeds rank models alike by {agreement:.2f}."


def _removed(rows: list[dict[str, Any]]) -> Table:
    names = ("method", "rows out", "by", "rise, nats", "90 % interval")
    table = terminal.columns(names, left=("method", "by"), wrap=False)
    for r in rows:
        of = "query" if r["metric"] == "qld" else "mean"
        table.add_row(_cell(r["method"]), f"{r['share']:.1%}", of, number(r["value"], 4), _interval(r, 4))
    return table


def _planted(rows: list[dict[str, Any]]) -> Table:
    names = ("method", "wrong AUC", "90 % interval", "copy AUC", "first", "in 10")
    table = terminal.columns(names, left=("method",), wrap=False)
    by = {(r["method"], r["metric"]): r for r in rows}
    for method in dict.fromkeys(r["method"] for r in rows):
        wrong = by.get((method, "wrong auc"))
        copies = (by.get((method, f"duplicate {name}")) for name in ("auc", "recall@1", "recall@10"))
        numbers = ["-" if c is None else number(c["value"], 2) for c in copies]
        found = ("-", "-") if wrong is None else (number(wrong["value"], 2), _interval(wrong))
        table.add_row(_cell(method), *found, *numbers)
    return table


def _interval(row: dict[str, Any], digits: int = 2) -> str:
    if row["lower"] is None:
        return "-"
    return f"{number(row['lower'], digits)}..{number(row['upper'], digits)}"


def _cell(name: str) -> Text:
    return Text(one_line(name, _NAME))
