"""The sections on the values themselves: influence, how good its estimates are, what they cost."""

from __future__ import annotations

from typing import Any

from nncift_core.report import plots, queries
from nncift_core.report.blocks import Plot, Section, Title, say, table, value
from nncift_core.report.queries import Data, Reader


def influence(r: Reader) -> Section:
    """How influence is distributed, per quadrant and origin, and the rows at both ends."""
    section = Section("influence", "Influence")
    exact = r.ask(queries.EXACT)
    section.blocks = _pairs(r, exact) if exact.rows[0]["pairs"] else _single_values(r)
    ends = ("score:score", "origin", "chosen", "source", "prompt:long", "response:long")
    section.blocks += [
        Title("Best rows by score"),
        table(r.ask(queries.extremes("DESC")), *ends, cards=True),
        Title("Worst rows by score"),
        table(r.ask(queries.extremes("ASC")), *ends, cards=True),
    ]
    return section


def _single_values(r: Reader) -> list[Any]:
    """What there is to show of a function that values each row by itself."""
    exact = r.ask(queries.EXACT_SCORES)
    return [
        say(
            "{} gives every pool row one value of its own, whatever the target. {} of {} values are exact "
            "({}); what is not exact is estimated from the row’s embedding.",
            value(exact, "function"), value(exact, "exact", "int"), value(exact, "rows", "int"),
            value(exact, "share", "share"),
        ),
        _scores(r),
    ]  # fmt: skip


def _pairs(r: Reader, exact: Data) -> list[Any]:
    """How influence of pairs is distributed."""
    return [
        say(
            "Influence says how much a pool row helps a target row; positive helps. {} of {} pairs are "
            "exact ({}); what is not is estimated. Q1 pairs a labelled row with a labelled target (the "
            "estimator was fitted on these), Q2 a labelled row with another target, Q3 another row with a "
            "labelled target, Q4 neither.",
            value(exact, "exact", "int"), value(exact, "pairs", "int"), value(exact, "share", "share"),
        ),
        table(
            r.ask(queries.INFLUENCE),
            "quadrant", "origin", "pairs:int", "share:share", "lowest:score", "highest:score",
            "positive:share",
        ),
        _distribution(r),
        Title("Scores"),
        say(
            "A row’s score is its mean influence on the rows of a target task; of its best task where there "
            "are several."
        ),
        _scores(r),
    ]  # fmt: skip


def _distribution(r: Reader) -> Plot:
    found = r.ask(queries.HISTOGRAM)
    edges = [(row["from_value"], row["to_value"]) for row in found.rows]
    panels: dict[str, dict[str, list[int]]] = {}
    for quadrant, origin in queries.HISTOGRAM_PARTS:
        counts = [row[f"{quadrant.lower()}_{origin}"] for row in found.rows]
        if any(counts):
            panels.setdefault(quadrant, {})[origin] = counts
    parts = [f"{quadrant} {origin}:int" for quadrant, origin in queries.HISTOGRAM_PARTS]
    return Plot(
        plots.histograms(edges, panels, "influence"),
        "Distribution of influence per quadrant, exact and estimated apart",
        "Estimates whose curve is much narrower than the exact ones say little about single pairs.",
        table(found, "from:score", "to:score", *parts, folded="numbers and query"),
    )


def _scores(r: Reader) -> Plot:
    found = r.ask(queries.SCORES)
    edges = [(row["from_value"], row["to_value"]) for row in found.rows]
    named = {"chosen": "chosen", "not chosen": "not_chosen"}
    series = {title: [row[name] for row in found.rows] for title, name in named.items()}
    return Plot(
        plots.histograms(edges, {"": {k: v for k, v in series.items() if any(v)}}, "score"),
        "Distribution of scores, chosen rows and the others apart",
        "top-k takes the highest scores; a coverage rule (fl, flmi, flcg) also takes rows of middling score "
        "when they help targets that nobody else helps.",
        table(found, "from:score", "to:score", "chosen:int", "not chosen:int", folded="numbers and query"),
    )


def quality(r: Reader) -> Section:
    """Estimates against exact values, beside baselines."""
    section = Section("quality", "Quality of the estimates")
    found = r.ask(queries.QUALITY)
    if not found.rows:
        section.blocks = [say("Every pair was computed exactly; there are no estimates to judge.")]
        return section
    section.blocks = [
        say(
            "Estimates beside exact values. Q1 is what was fitted; Q2, Q3 and Q4 hold pairs that no fit "
            "has seen. R2 is the share of variance explained (below zero: worse than a constant). Spearman "
            "is rank agreement, with its 90 % interval; within target, the same inside each target row. "
            "Top 10 % is the share of the truly best tenth among the predicted best tenth; a constant "
            "finds about a tenth of it."
        ),
        table(
            found,
            "quadrant", "predictor", "pairs:int", "R2:rate", "Spearman:rate", "from:rate", "to:rate",
            "within target:rate", "top 10 %:rate", "verdict:verdict",
        ),
        *_agreement(r),
    ]  # fmt: skip
    by_task = r.ask(queries.QUALITY_BY_TASK)
    if by_task.rows:
        columns = ("task", "quadrant", "pairs:int", "R2:rate", "Spearman:rate", "from:rate", "to:rate")
        section.blocks += [Title("By target task"), table(by_task, *columns, "verdict:verdict")]
    return section


def _agreement(r: Reader) -> list[Plot]:
    """The plot of rank agreement; none where no predictor has a rank agreement at all."""
    rows = [q for q in r.ask(queries.QUALITY).rows if q["spearman"] is not None]
    if not rows:
        return []
    alt = "Rank agreement of estimator and baselines with exact values, per quadrant"
    caption = (
        "The filled dot is the estimator. It earns its cost where its interval lies right of every "
        "baseline’s dot."
    )
    return [Plot(plots.intervals(rows, "Spearman"), alt, caption, None)]


def costs(r: Reader) -> Section:
    """What every stage of the latest attempt did, and how long it took."""
    section = Section("costs", "Costs")
    found, total = r.ask(queries.COSTS), r.ask(queries.TOTAL)
    section.blocks = [
        say(
            "The latest attempt took {} seconds in all, with at most {} MB of memory. Reused items were "
            "taken from the workspace. Peak memory is the highest so far in the process.",
            value(total, "seconds", "seconds"), value(total, "peak_rss_mb", "int"),
        ),
        table(found, "stage", "items:int", "computed:int", "reused:int", "seconds:seconds", "peak MB:int"),
    ]  # fmt: skip
    if found.rows:
        seconds = {"seconds": [row["seconds"] for row in found.rows]}
        image = plots.bars([row["stage"] for row in found.rows], seconds, "seconds")
        section.blocks.append(
            Plot(image, "Seconds by stage", "Where the time of the latest attempt went.", None)
        )
    if total.first["attempts"] and total.first["attempts"] > 1:
        section.blocks.append(
            say(
                "All {} attempts of this run together took {} seconds.",
                value(total, "attempts", "int"), value(total, "all_seconds", "seconds"),
            )
        )  # fmt: skip
    return section
