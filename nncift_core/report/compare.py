"""The page of a comparison: what every method's subset trains, what estimates keep, and what values cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nncift_core.errors import UserError
from nncift_core.evaluation import METRICS
from nncift_core.pipeline.compare_costs import COST_GROUPS
from nncift_core.report import compare_queries as queries
from nncift_core.report import plots, values
from nncift_core.report.blocks import Code, Items, Plot, Section, Sentence, Title, Value, say, table, value
from nncift_core.report.notes import NOTES
from nncift_core.report.prune import made
from nncift_core.report.queries import FACTS, Reader
from nncift_core.report.template import fill
from nncift_core.store.workspace import Workspace

MODES = {
    "finetune": "Models fine-tuned on each subset",
    "icl": "The base model with the most similar rows of each subset as examples",
    "base": "The base model",
}


_SIZES = ("selected_rows", "pool_rows", "methods", "target_rows", "seeds", "test_rows")


def render_compare(ws: Workspace, run_id: str) -> str:
    """The page of a comparison as one HTML file that needs nothing else, read from its views.

    The same for the same results. Raises UserError for a run that is not there or has no result.
    """
    reader = Reader(ws, run_id)
    sections = [make(reader) for make in SECTIONS]
    return fill(
        ws,
        run_id,
        sections,
        title=f"nncift compare, run {run_id}",
        heading="Which rows are worth training on",
    )


def head(r: Reader) -> Section:
    """What was compared, how many methods beat random rows, what estimates keep."""
    facts = r.ask(FACTS)
    if not facts.rows:
        raise UserError(f"run {r.run_id} has no result yet", mend="Let it finish: run its config again.")

    def fact(name: str) -> Value:
        return value(facts.where("fact", name), "value", "int")

    better = r.ask(queries.BETTER)
    section = Section("outcome", "Outcome")
    section.blocks = [
        say(
            "Run {}: {} of {} pool rows chosen by each of {} methods for {} target rows; models of {} seeds "
            "on {} held-out rows.",
            Code(r.run_id), *(fact(name) for name in _SIZES),
        ),
        say(
            "Of {} comparisons of a method’s subset with random rows (every mode and metric), {} are better "
            "and {} worse beyond the 90 % interval, which holds the doubt from held-out rows and from seeds; "
            "the others leave doubt.",
            *(value(better, name, "int") for name in ("all_of_them", "better", "worse")),
        ),
        *_kept(r),
        Items(tuple(_notes(r))),
    ]  # fmt: skip
    return section


def _kept(r: Reader) -> list[Any]:
    found, note = r.ask(queries.KEPT), r.ask(FACTS).where("fact", "kept_note")
    if not found.rows:
        told = note.rows and note.first["text"]
        return [say("Of what estimates keep: {}.", value(note, "text", "long"))] if told else []
    return [
        say("What estimates keep of the gain of exact values, where that gain is beyond its interval:"),
        table(found, "method", "mode", "metric", "gain:gain", "kept:share"),
    ]


def _notes(r: Reader) -> list[Sentence]:
    facts = r.ask(FACTS)
    known = {row["fact"]: row["value"] for row in facts.rows}
    return [
        say("{} " + text + ".", value(facts.where("fact", name), "value", "int"))
        for name, text in NOTES.items()
        if known.get(name)
    ]


def models(r: Reader) -> Section:
    """Every subset under every mode and metric, with its interval."""
    section = Section("models", "What each subset trains")
    section.blocks = [
        say("Gain is by how much a subset does better than random rows of the same number (positive: better, "
            "whichever way the metric points).")
    ]  # fmt: skip
    shown = r.ask(queries.METRICS_SHOWN).rows
    for mode in dict.fromkeys(row["mode"] for row in shown):
        section.blocks.append(Title(MODES[mode]))
        for metric in [row["metric"] for row in shown if row["mode"] == mode]:
            section.blocks += [_gains(r, mode, metric), *_by_task(r, mode, metric)]
    section.blocks += [
        Title("Sizes"),
        table(r.ask(queries.TOKENS), "subset", "seeds:int", "rows:int", "tokens of an epoch:int"),
    ]
    return section


def _gains(r: Reader, mode: str, metric: str) -> Plot:
    found, about = r.ask(queries.scores(mode, metric)), METRICS[metric]
    rows = {
        row["method"]: (row["gain"], row["gain_lower"], row["gain_upper"])
        for row in found.rows
        if row["gain"] is not None
    }
    numbers = table(
        found, "subset", "value:loss", "from:loss", "to:loss", "gain:gain", "from:gain", "to:gain",
        "verdict:verdict", "kept:share", "seeds:int", "rows:int", folded="numbers and query",
    )  # fmt: skip
    way = "higher" if about.higher_is_better else "lower"
    return Plot(
        plots.gains(rows, f"gain in {metric} over random rows"),
        f"Gain in {metric} of every subset over random rows, with 90 % intervals",
        f"{metric}: {about.description} ({about.unit}; {way} is better). Blue: better than random rows, "
        "red: worse, grey: in doubt.",
        numbers,
    )


def _by_task(r: Reader, mode: str, metric: str) -> list[Any]:
    found = r.ask(queries.by_task(mode, metric))
    if not found.rows:
        return []
    columns = (
        "task",
        "subset",
        "value:loss",
        "gain:gain",
        "from:gain",
        "to:gain",
        "verdict:verdict",
        "rows:int",
    )
    return [table(found, *columns, folded=f"{metric} by task")]


def methods(r: Reader) -> Section:
    """How every method got its values."""
    section = Section("methods", "How the pool was valued")
    section.blocks = [
        table(
            r.ask(queries.METHODS), "method", "rule", "rows:int", "exact pairs:int", "pairs:int",
            "estimated by", "audit:verdict", "picks with gain:int", "ties:int",
        )
    ]  # fmt: skip
    reasons, failed = r.ask(queries.REASONS), r.ask(queries.FAILED)
    if reasons.rows:
        section.blocks.append(
            table(reasons, "method", "what the audit says:long", folded="verdicts of the audits")
        )
    if failed.rows:
        section.blocks += [Title("What failed"), table(failed, "method", "why:long")]
    return section


def costs(r: Reader) -> Section:
    """Seconds of every method by stage, and from which pool size on estimating pays."""
    section = Section("method-costs", "What values cost")
    groups = [f"{name}:seconds" for name in (*COST_GROUPS, "sum")]
    section.blocks = [
        say("Seconds of each method if nothing had been stored: measured seconds of an item times its items. "
            "Work that several methods share (embeddings, features) counts for each."),
        table(r.ask(queries.costs()), "method", *groups),
    ]  # fmt: skip
    even = r.ask(queries.BREAK_EVEN)
    if even.rows:
        section.blocks += [
            say("From how many pool rows on an estimate is cheaper than exact values, when labels, features "
                "and predictions grow with the pool and fits do not:"),
            table(even, "method", "estimated, s:seconds", "exact, s:seconds", "cheaper from pool rows"),
        ]  # fmt: skip
    return section


SECTIONS: tuple[Callable[[Reader], Section], ...] = (head, models, methods, costs, values.costs, made)
