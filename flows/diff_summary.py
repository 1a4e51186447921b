"""How changes of a subset look in the terminal: for `nncift diff` and `nncift refresh`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from flows import terminal
from flows.terminal import heading
from nncift_core.pipeline.diff import summary
from nncift_core.pipeline.diff_runs import RunDiff
from nncift_core.text import one_line

EXCERPT = 48
LIMIT = 20
_SETTING = 60


def show_changes(
    console: Console,
    rows: Sequence[dict[str, Any]],
    *,
    texts: Mapping[int, str] | None = None,
    limit: int = LIMIT,
    title: str = "What entered and left the subset",
) -> None:
    """Counts by reason, then the first `limit` rows of `subset_changes`, and how many are not shown.

    texts: prompts by example id, shown in short; 0 as limit: counts alone.
    """
    heading(console, title)
    if not rows:
        console.print(Text("nothing: both subsets hold the same rows"))
        return
    counts = terminal.columns(("change", "why", "rows"), left=("change", "why"))
    for line in summary(rows):
        counts.add_row(line["change"], line["why"], f"{line['rows']:,}")
    console.print(counts)
    shown = shared_out(rows, limit)
    if shown:
        console.print(_table(shown, texts or {}))
    if limit and len(shown) < len(rows):
        console.print(Text(f"{len(shown):,} of {len(rows):,} changed rows shown"), soft_wrap=True)


def shared_out(rows: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """At most `limit` of the rows: half of the places for rows that entered, unless the others need fewer."""
    entered = [row for row in rows if row["change"] == "entered"]
    left = [row for row in rows if row["change"] != "entered"]
    first = max(limit - len(left), (limit + 1) // 2)
    head = entered[: max(first, 0)]
    return head + left[: max(limit - len(head), 0)]


def _table(rows: Sequence[dict[str, Any]], texts: Mapping[int, str]) -> Any:
    names = ("change", "rank", "score", "why", *(("prompt",) if texts else ()))
    table = terminal.columns(names, left=("change", "why", "prompt"))
    for row in rows:
        ranks = _moved(_rank(row["rank_before"]), _rank(row["rank_after"]))
        scores = _moved(_score(row["score_before"]), _score(row["score_after"]))
        text = one_line(texts.get(row["train_id"], ""), EXCERPT)
        cells = (row["change"], ranks, scores, row["why"], *((text,) if texts else ()))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _rank(rank: int | None) -> str:
    return "-" if rank is None else f"{rank:,}"


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.4g}"


def _moved(before: str, after: str) -> str:
    return f"{before} > {after}"


def show_diff(found: RunDiff, texts: Mapping[int, str], limit: int) -> None:
    """Both runs side by side, then the changes of the subset with short prompts (by example id)."""
    console, told = terminal.console(), found.told
    for name in ("before", "after"):
        run = told[name]
        line = (
            f"{name:<7} run {run['run_id']}: {run['chosen']:,} of {run['pool_rows']:,} rows by {run['rule']}"
        )
        console.print(Text(f"{line}, {one_line(run['function'], 40)}"), soft_wrap=True)
    for note in told["notes"]:
        console.print(Text(f"note: {one_line(note, 300)}"), soft_wrap=True)
    _settings(console, told["config"])
    _data(console, told["data"])
    _estimators(console, told["estimator"])
    subset, scores = told["subset"], told["scores"]
    overlap = (
        f"{subset['both']:,} rows in both subsets, {subset['entered']:,} entered, {subset['left']:,} left; "
        f"Jaccard {terminal.number(subset['jaccard'])}; Spearman of the scores of {scores['common_rows']:,} "
        f"common pool rows {terminal.number(scores['spearman'])}"
    )
    heading(console, "Subset")
    console.print(Text(overlap), soft_wrap=True)
    _objective(console, told["objective"])
    show_changes(console, found.changes, texts=texts, limit=limit)


def _objective(console: Console, objective: dict[str, Any]) -> None:
    """Both subsets under each run: what the change did to what the rules maximise."""
    heading(console, "Objective of both subsets under each run")
    names = ("judged by", "rule", "subset before", "subset after", "change", "relative")
    table = terminal.columns(names, left=("judged by", "rule"))
    for row in objective["under"]:
        relative = "-" if row["relative"] is None else f"{row['relative']:+.2%}"
        change = "-" if row["change"] is None else f"{row['change']:+.4g}"
        table.add_row(
            row["run"], row["rule"], *(_value(row[k]) for k in ("before", "after")), change, relative
        )
    console.print(table)
    for note in objective["notes"]:
        console.print(Text(f"note: {one_line(note, 300)}"), soft_wrap=True)


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _settings(console: Console, config: list[dict[str, Any]]) -> None:
    heading(console, "Settings that differ")
    if not config:
        console.print(Text("none"))
        return
    table = terminal.columns(("key", "before", "after"), left=("key", "before", "after"))
    for row in config:
        shown = (json.dumps(row[name], ensure_ascii=False) for name in ("before", "after"))
        table.add_row(Text(one_line(row["key"], _SETTING)), *(Text(one_line(x, _SETTING)) for x in shown))
    console.print(table)


def _data(console: Console, data: list[dict[str, Any]]) -> None:
    heading(console, "Data")
    table = terminal.columns(("role", "rows before", "rows after", "added", "removed"), left=("role",))
    for row in data:
        numbers = (f"{row[name]:,}" for name in ("before", "after", "added", "removed"))
        table.add_row(row["role"], *numbers)
    console.print(table)


def _estimators(console: Console, estimators: list[dict[str, Any]]) -> None:
    heading(console, "Estimator")
    if estimators[0]["key"] is not None and estimators[0]["key"] == estimators[1]["key"]:
        console.print(Text("the same fit in both runs"))
    for name, one in zip(("before", "after"), estimators, strict=True):
        if one["estimator"] is None:
            console.print(Text(f"{name:<7} none: every value is exact"))
            continue
        used = "" if one["used"] == one["estimator"] else f", in its place {one['used']}"
        labels = "" if one["labels"] is None else f" on {one['labels']:,} labels"
        warm = ", started from an earlier fit" if one["warm_from"] else ""
        line = f"{name:<7} {one['estimator']}{used}{labels}{warm}: {one['verdict']}: {one['reason']}"
        console.print(Text(one_line(line, 400)), soft_wrap=True)
