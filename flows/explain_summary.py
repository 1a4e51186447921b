"""What `nncift explain` prints: at most 80 columns, plain where it is piped."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text

from flows.terminal import columns, heading
from nncift_core.text import one_line, visible

WIDTH = 80
LIMIT = 5
# Stages whose items are rows or pairs; the others are paid once per run.
PER_ROW = ("embed", "features", "estimator-features", "exact-influence", "estimate-influence")


def show(told: dict[str, Any]) -> None:
    """Everything that `nncift_core.pipeline.explain.explain` told."""
    out = Console(highlight=False, width=WIDTH)
    _row(out, told)
    if told["run"]["kind"] == "prune":
        from flows.explain_prune_summary import show_pruned

        show_pruned(out, told)
    else:
        _values(out, told)
        _choice(out, told)
        _near(out, told)
        _lineage(out, told["lineage"])
    for note in told["notes"]:
        say(out, f"note: {note}")


def say(out: Console, text: str) -> None:
    """A paragraph, wrapped at the width."""
    for part in textwrap.wrap(visible(text), WIDTH, break_on_hyphens=False):
        out.print(Text(part), soft_wrap=True)


def line(out: Console, text: str) -> None:
    """One line, cut at the width."""
    out.print(Text(one_line(text, WIDTH)), soft_wrap=True)


def number(value: float | None) -> str:
    """Four significant digits; a dash for None."""
    return "-" if value is None else f"{value:.4g}"


def name_of(row: dict[str, Any]) -> str:
    """How a row is called: by the user's id where it has one, else by its place in the file."""
    own = row["source_id"]
    return one_line(str(own), 24) if own is not None else f"row:{row['row_number']}"


def listed(
    out: Console, title: str, rows: list[dict[str, Any]], of: int | None = None, key: str = ""
) -> None:
    """Rows one by one: key names a number to show; of: how many there are in all."""
    if not rows:
        return
    shown, total = rows[:LIMIT], len(rows) if of is None else of
    line(out, title)
    for row in shown:
        value = f"{row[key]:.3f}  " if key else ""
        rank = f"rank {row['rank']:,}" if row.get("rank") else "not chosen"
        line(out, f"  {value}{name_of(row)} ({rank}): {row['text']}")
    if total > len(shown):
        line(out, f"  {len(shown)} of {total:,} shown" + ("; --json lists more" if len(rows) > LIMIT else ""))


def _row(out: Console, told: dict[str, Any]) -> None:
    row, run = told["row"], told["run"]
    heading(out, f"Row {row['example_id']}")
    rule = f", {run['chosen']:,} of {run['pool_rows']:,} rows by {run['rule']}" if run["rule"] else ""
    of_task = f", task {row['task']}" if row["task"] is not None else ""
    about = {
        "run": f"{run['run_id']}, {run['function']}{rule}",
        "data": f"{row['role']} {row['dataset']}, row:{row['row_number']}{of_task}",
        "your id": row["source_id"],
        "label": row["label"],
        "prompt": row["prompt"],
        "response": row["response"],
    }
    for name, text in about.items():
        if text not in (None, ""):
            line(out, f"  {name:<9} {text}")
    copies = row["copies_in_all"]
    if copies:
        listed(out, f"{copies:,} more rows hold the same text:", row["copies"], copies)


def _values(out: Console, told: dict[str, Any]) -> None:
    heading(out, f"Value of the row under {told['run']['function']}")
    table = columns(("task", "value", "rank in pool", "percentile", "origin"), left=("task", "origin"))
    for v in told["values"]:
        percentile = "-" if v["percentile"] is None else f"{v['percentile']:.1f}"
        cells = (number(v["score"]), f"{v['rank']:,} of {v['of']:,}", percentile, v["origin"])
        table.add_row(Text(one_line(v["task"], 24)), *cells)
    out.print(table)
    for v in told["values"]:
        if "lower" in v:
            line(out, f"  90 % interval {_interval(v)}")
        if v["best"]:
            line(out, f"Target rows of {v['task']} that it helps most (influence, 90 % interval, origin)")
        for t in v["best"]:
            name = name_of(t)
            line(out, f"  {number(t['influence']):>9} {_interval(t)}  {name}: {t['text']}")


def _interval(pair: dict[str, Any]) -> str:
    if pair["origin"] == "exact":
        return "exact"
    if pair["lower"] is None:
        return f"{pair['origin']}, no interval"
    return f"{number(pair['lower'])}..{number(pair['upper'])} {pair['origin']}"


def _choice(out: Console, told: dict[str, Any]) -> None:
    choice, rule = told["choice"], told["run"]["rule"]
    chosen = choice["chosen"]
    heading(out, f"Chosen: rank {choice['rank']:,} of {choice['of']:,} by {rule}" if chosen else "Not chosen")
    if "places" in choice:
        paragraphs = _top_k(choice)
    else:
        paragraphs = _picked(choice) if chosen else _not_picked(choice)
    for text in paragraphs:
        say(out, text)
    for t in choice.get("targets", []):
        rival = t["covered_by"]
        by = "no chosen row"
        if rival is not None:
            by = f"{name_of(rival)} (rank {rival['rank']:,}) {number(rival['influence'])}: {rival['text']}"
        line(out, f"  {name_of(t)}: this row {number(t['influence'])}, {by}")


def _top_k(c: dict[str, Any]) -> Iterable[str]:
    where = f"Score {number(c['score'])}, place {c['place']:,} of {c['places']:,}; "
    yield f"{where}the lowest chosen score is {number(c['cut_off'])}."
    if c["tied"]:
        yield f"Rows with the same score: {c['tied']:,} others; ties go by a hash of the row."
    if not c["chosen"]:
        last = _named(c["last_chosen"])
        yield f"It would have to rise by {number(c['rise'])} to reach the last chosen row, {last}."
    elif c["replaced_by"] is None:
        yield "Every row of the pool was chosen."
    else:
        other = c["replaced_by"]
        yield (
            f"First row below the cut: {_named(other)}, score {number(other['score'])}, "
            f"{number(other['distance'])} below this one."
        )


def _picked(c: dict[str, Any]) -> Iterable[str]:
    share = "" if c["share"] is None else f", {100 * c['share']:.2g} % of the objective"
    yield f"It added {number(c['gain'])} when it was picked{share} (influence scaled to 0..1)."
    yield from _own(c)
    yield f"Of all chosen rows it covers {c['represents']:,} target rows best."
    best, out = c["replaced_by"], c["left_out"]
    if best is None:
        yield "No other row was left."
        return
    yield f"Next best at that step: {_named(best)}, {_fate(best)}, {_gained(best)}."
    if out is not None and out["example_id"] != best["example_id"]:
        yield f"Next best of the rows that were never chosen: {_named(out)}, {_gained(out)}."


def _own(c: dict[str, Any]) -> Iterable[str]:
    if c["own_match"] is not None:
        yield f"Of that, {number(c['own_match'])} is its own best match, which no other row takes away."


def _gained(row: dict[str, Any]) -> str:
    return f"gain {number(row['gain'])}, {number(row['difference'])} less"


def _fate(row: dict[str, Any]) -> str:
    return "not chosen" if row["rank"] is None else f"picked at rank {row['rank']:,}"


def _not_picked(c: dict[str, Any]) -> Iterable[str]:
    yield (
        f"Beside the chosen rows it would add {number(c['gain_at_end'])}; the last pick added "
        f"{number(c['last_gain'])} (influence scaled to 0..1)."
    )
    yield from _own(c)
    yield (
        f"It came nearest at step {c['nearest_step']:,}: gain {number(c['gain_there'])} against "
        f"{number(c['pick_gain_there'])} of {_named(c['nearest_pick'])}. Its gain would have to rise by "
        f"{number(c['rise'])} to be picked there."
    )
    yield (
        f"For {c['covered']:,} of {c['of_targets']:,} target rows a chosen row is at least as good. Where it "
        "helps most (influence of this row, then of the chosen row that covers the target best):"
    )


def _named(row: dict[str, Any]) -> str:
    return f"{name_of(row)} ({one_line(row['text'], 40)})"


def _near(out: Console, told: dict[str, Any]) -> None:
    near = told["neighbours"]
    if near is None:
        return
    heading(out, "Near rows (cosine of embeddings)")
    count, bound = near["near_duplicates_in_all"], near["bound"]
    line(out, f"Near duplicates (cosine >= {bound:g}, other text): {count:,} of {near['compared']:,} texts")
    listed(out, "The nearest of them:", near["near_duplicates"], count, "cosine")
    listed(out, "Nearest chosen rows:", near["nearest_chosen"], None, "cosine")


def _lineage(out: Console, lineage: dict[str, Any]) -> None:
    heading(out, "Where the values come from")
    line(out, f"Measured pairs of this row: {lineage['exact_pairs']:,} of {lineage['pairs']:,}")
    for made in _by_attempt(lineage["exact"]):
        line(out, f"  {made}")
    estimator = lineage["estimator"]
    if estimator is not None:
        verdict = f", {estimator['verdict']}" if estimator["verdict"] else ""
        made = f"run {estimator['run_id']}, attempt {estimator['attempt']}"
        fit = f"{estimator['labels']:,} labels{verdict}"
        say(out, f"The others are of {estimator['architecture']}, fitted on {fit} ({made})")
    costs = [c for c in lineage["costs"] if c["stage"] in PER_ROW and c["seconds_per_item"] is not None]
    prices = [f"{c['stage']} {c['seconds_per_item']:.2g}" for c in costs]
    if prices:
        say(out, f"Seconds per item in this run: {', '.join(prices)}")
    for name, seconds in lineage["row_seconds"].items():
        if name == "exact" or estimator is not None:
            price = "not known, a part was reused" if seconds is None else f"{number(seconds)} s"
            line(out, f"One row against all targets, {name}: {price}")


def _by_attempt(files: list[dict[str, Any]]) -> list[str]:
    """One line per attempt that measured pairs of the row."""
    pairs: dict[tuple[Any, Any], list[int]] = {}
    for f in files:
        pairs.setdefault((f["run_id"], f["attempt"]), []).append(f["pairs"])
    return [
        f"{sum(n):,} by {f'run {run}, attempt {attempt}' if run else 'an older version'}, "
        + ("in 1 file" if len(n) == 1 else f"in {len(n):,} files")
        for (run, attempt), n in pairs.items()
    ]
