"""What a person sees in the terminal after a prune run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows import terminal
from flows.terminal import CELL, command, heading, near, number
from nncift_core.report.notes import notes_of
from nncift_core.store.workspace import Workspace
from nncift_core.text import one_line

if TYPE_CHECKING:
    from flows.prune import PruneResult


def show_prune(result: PruneResult) -> None:
    """The recommendation, the studies, the paper's claims, where everything is."""
    console = terminal.console()
    f = result.facts
    heading(console, f"{f['rows']:,} rows, {f['classes']:,} classes, {f['mode']} encoder, "
                     f"accuracy {number(f['accuracy_all'])} on {f['test_rows']:,} rows")  # fmt: skip
    told = str(f["recommendation"])
    console.print(Text(f"{told[:1].upper()}{told[1:]}."), soft_wrap=True)
    for note in [*notes_of(f), *filter(None, [f.get("labels_note")])]:
        console.print(Text(f"note: {note}"), soft_wrap=True)
    for study, noise, rate in dict.fromkeys(
        (r["study"], r["noise"], r["noise_rate"]) for r in result.summary
    ):
        of = [r for r in result.summary if (r["study"], r["noise"], r["noise_rate"]) == (study, noise, rate)]
        planted = f", {rate:.0%} {noise} noise" if noise else ""
        full = next((f": accuracy of all rows {number(r['accuracy'])}" for r in of if not r["pruned"]), "")
        heading(console, f"\nStudy {study}{planted}{full}")
        console.print(_points(of))
    if result.summary:
        seeds = result.summary[0]["n_seeds"]
        told = f"Change of accuracy in points, mean and deviation over {seeds} seeds, by the share dropped."
        console.print(Text(f"{told} > better, < worse than random rows, each by its own 90 % interval."))
    for noise, rate in dict.fromkeys((r["noise"], r["noise_rate"]) for r in result.detection):
        heading(console, f"\nFinding the labels planted wrong: {rate:.0%} {noise}")
        of = [r for r in result.detection if (r["noise"], r["noise_rate"]) == (noise, rate)]
        console.print(_detection(of))
    _claims(console, result.findings)
    _where(console, result)


def _points(rows: list[dict[str, Any]]) -> Table:
    """A line per score and end, a column per share: change of accuracy, and what random rows say to it."""
    shares = sorted({r["pruned"] for r in rows if r["pruned"]})
    names = ("score", *(f"{share:.0%}" for share in shares))
    table = terminal.columns(names, left=("score",), wrap=False)
    whole = next((r for r in rows if not r["pruned"]), None)
    by = {(_score(r), r["pruned"]): r for r in rows}
    for score in dict.fromkeys(_score(r) for r in rows if r["pruned"]):
        cells = [_change(by.get((score, share)), whole) for share in shares]
        table.add_row(Text(one_line(score, CELL)), *cells)
    return table


def _score(row: dict[str, Any]) -> str:
    """The score with what else says how rows were taken."""
    parts = (row["score"], row["variant"], row["sampling"] if row["sampling"] != "cut" else "")
    return " ".join(p for p in (*parts, row["pruned_end"]) if p)


def _change(row: dict[str, Any] | None, whole: dict[str, Any] | None) -> str:
    """Change of accuracy in points, its deviation, and the verdict against random rows as a mark."""
    if row is None or whole is None or row["change"] is None:
        return "-"
    spread = "" if row["change_spread"] is None else f" ±{100 * row['change_spread']:.1f}"
    mark = {"better": ">", "worse": "<"}.get(row["verdict"] or "", " ")
    return f"{100 * row['change']:+.1f}{spread} {mark}"


def _detection(rows: list[dict[str, Any]]) -> Table:
    table = terminal.columns(("score", "AUC", "precision", "found"), left=("score",), wrap=False)
    for score, variant in dict.fromkeys((r["score"], r["variant"]) for r in rows):
        of = [r for r in rows if (r["score"], r["variant"]) == (score, variant)]
        values = [_mean([r[name] for r in of]) for name in ("auc", "average_precision", "found")]
        table.add_row(f"{score} {variant}", *values)
    return table


def _mean(values: list[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    mean = sum(known) / len(known)
    spread = (sum((v - mean) ** 2 for v in known) / (len(known) - 1)) ** 0.5 if len(known) > 1 else None
    return number(mean) + ("" if spread is None else f" ±{spread:.3f}")


def _claims(console: Console, findings: list[dict[str, Any]]) -> None:
    studied = [c for c in findings if c["holds"] != "not studied"]
    if not studied:
        return
    heading(console, "\nThe paper's claims on these data")
    for c in studied:
        console.print(Text(f"  {c['holds']:<8} {c['claim']} {c['text']}"), soft_wrap=True)


def _where(console: Console, result: PruneResult) -> None:
    f, root = result.facts, Workspace(result.workspace).root
    option = f"--workspace {near(result.workspace)} --run {result.run_id}"
    sql = (
        "SELECT score, pruned_end, pruned, accuracy, gain, verdict FROM pruning_summary WHERE study = 'curve'"
    )
    computed = {c["stage"]: c for c in result.costs}
    trained = [computed[s] for s in ("train-scores", "train-subsets") if s in computed]
    made, kept = sum(c["computed"] for c in trained), sum(c["reused"] for c in trained)
    lines = [f"\n{made:,} trainings made now, {kept:,} reused"]
    if f.get("subset"):
        rows = f"{f['subset_rows']:,} rows, chosen by the {f['subset_by']}"
        lines.append(f"subset     {near(str(root))}/{f['subset']} ({rows})")
    lines += [
        f"suspects   {near(str(root))}/{f['suspects_csv']} ({f['suspects']:,} rows)",
        f"report     {near(result.report)}",
        f"run        {result.run_id}, attempt {result.attempt}; graph and artifacts: {result.ui_url}",
        f'\nTry next:\n  {command()} query "{sql}" {option}',
    ]
    console.print(Text("\n".join(lines)), soft_wrap=True)
