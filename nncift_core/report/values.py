"""The sections on the values themselves: influence and scores, and what they cost."""

from __future__ import annotations

from typing import Any

from nncift_core.report import plots, queries
from nncift_core.report.blocks import Plot, Section, Sentence, Title, say, table, value
from nncift_core.report.queries import Data, Reader


def influence(r: Reader) -> Section:
    """How influence is distributed, per quadrant and origin, and the rows at both ends."""
    section = Section("influence", "Influence")
    kept = r.ask(queries.FACTS).where("fact", "store_matrix")
    exact = r.ask(queries.EXACT)
    if not r.pointwise and kept.rows and kept.first["text"] != "all":
        section.blocks = _left_out(r, kept)
    else:
        section.blocks = _pairs(r, exact) if exact.rows[0]["pairs"] else _single_values(r)
    ends = ("score:score", "origin", "chosen", "source", "prompt:long", "response:long")
    section.blocks += [
        Title("Best rows by score"),
        table(r.ask(queries.extremes("DESC")), *ends, cards=True),
        Title("Worst rows by score"),
        table(r.ask(queries.extremes("ASC")), *ends, cards=True),
    ]
    return section


def _rest(r: Reader, view: str, unit: str) -> Sentence:
    """How what is not exact came about."""
    found = r.ask(queries.OTHERS.format(view))
    if not found.rows:
        return say("")
    if found.first["origin"] == "baseline":
        used = r.ask(queries.FACTS).where("fact", "estimator_used")
        name = value(used, "text") if used.rows else value(found, "origin")
        return say(" What is not exact is filled by the cheap baseline “{}”.", name)
    return say(f" What is not exact is estimated from features of the {unit}.")


def _single_values(r: Reader) -> list[Any]:
    """What there is to show of a function that values each row by itself."""
    exact = r.ask(queries.EXACT_SCORES)
    line = say(
        "{} gives every pool row one value of its own, whatever the target. {} of {} values are exact ({}).",
        value(exact, "function"), value(exact, "exact", "int"), value(exact, "rows", "int"),
        value(exact, "share", "share"),
    )  # fmt: skip
    return [Sentence((*line.parts, *_rest(r, "scores", "row").parts)), _scores(r)]


def _left_out(r: Reader, kept: Data) -> list[Any]:
    """What was kept of pairs whose values are not stored."""
    exact, found = r.ask(queries.OVERVIEW_EXACT), r.ask(queries.OVERVIEW)
    line = say(
        "Influence says how much a pool row helps a target row; positive helps. {} of {} pairs of distinct "
        "rows are exact ({}). Estimates are not stored (store_matrix = “{}”): “nncift query --compute” makes "
        "them again for the rows of a query.",
        value(exact, "exact", "int"), value(exact, "pairs", "int"), value(exact, "share", "share"),
        value(kept, "text"),
    )  # fmt: skip
    edges = [(row["from_value"], row["to_value"]) for row in found.rows]
    series = {name: [row[name] for row in found.rows] for name in ("exact", "others")}
    return [
        Sentence((*line.parts, *_rest(r, "scores", "pair").parts)),
        Plot(
            plots.histograms(edges, {"": {k: v for k, v in series.items() if any(v)}}, "influence"),
            "Distribution of influence, exact values and the rest apart",
            "Counted while rows were scored.",
            table(found, "from:score", "to:score", "exact:int", "others:int", folded="numbers and query"),
        ),
        Title("Scores"),
        _scores(r),
    ]


_QUADRANTS = (
    " Q1 pairs a labelled row with a labelled target (the estimator was fitted on these), Q2 a labelled row "
    "with another target, Q3 another row with a labelled target, Q4 neither."
)
_SCATTERED = " Labels were scattered over all rows and targets: there are no quadrants."


def _pairs(r: Reader, exact: Data) -> list[Any]:
    """How influence of pairs is distributed."""
    found = r.ask(queries.INFLUENCE)
    scattered = found.where("quadrant", "scattered").rows
    line = say(
        "Influence says how much a pool row helps a target row; positive helps. {} of {} pairs are "
        "exact ({}).",
        value(exact, "exact", "int"), value(exact, "pairs", "int"), value(exact, "share", "share"),
    )  # fmt: skip
    rest = _rest(r, "influence", "pair")
    return [
        Sentence((*line.parts, *rest.parts, _SCATTERED if scattered else _QUADRANTS)),
        table(
            found,
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
    present = [(row["quadrant"], row["origin"]) for row in r.ask(queries.INFLUENCE).rows]
    found = r.ask(queries.histogram(present))
    edges = [(row["from_value"], row["to_value"]) for row in found.rows]
    panels: dict[str, dict[str, list[int]]] = {}
    for quadrant, origin in present:
        counts = [row[f"{quadrant.lower()}_{origin}"] for row in found.rows]
        panels.setdefault("" if quadrant == "scattered" else quadrant, {})[origin] = counts
    return Plot(
        plots.histograms(edges, panels, "influence"),
        "Distribution of influence, exact values and the rest apart",
        "Estimates whose curve is much narrower than the exact ones say little about single pairs.",
        table(
            found, "from:score", "to:score", *(f"{q} {o}:int" for q, o in present), folded="numbers and query"
        ),
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
