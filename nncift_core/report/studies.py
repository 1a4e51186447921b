"""Parts of "Can you trust this?" on how the estimates came about and what would make them better."""

from __future__ import annotations

from typing import Any

from nncift_core.report import plots
from nncift_core.report import trust_queries as queries
from nncift_core.report.blocks import Plot, Sentence, Table, Title, say, table, value
from nncift_core.report.queries import FACTS, Reader

_DESIGNS = {
    "block": "a block: some rows with some targets, each with each",
    "scattered": "single pairs scattered over all rows and all targets",
    "all-targets": "some rows, each with every target",
}


def candidates(r: Reader) -> list[Any]:
    """Who stood for choice and why the winner won; only the reason where there was no choice."""
    components = [row["component"] for row in r.ask(queries.COMPONENTS).rows]
    found = r.ask(queries.candidates(len(components)))
    choice = r.ask(FACTS).where("fact", "estimator_choice")
    if not found.rows and not choice.first.get("text"):
        return []
    blocks: list[Any] = [Title("Why this estimator")]
    if choice.first.get("text"):
        blocks.append(say("Chosen: {}.", value(choice, "text", "long")))
    if found.rows:
        names = [f"{name.replace('_', ' ')}:rate" for name in components]
        columns = ("rank:int", "predictor", "kind", "criterion:rate", *names, "seconds:seconds", "failed")
        blocks += [
            say(
                "The candidates, best first. The criterion that ranks them is made of the columns beside it, "
                "taken from labels and from audit values set apart: others measure the winner."
            ),
            table(found, *columns),
        ]
    return blocks


def features(r: Reader) -> list[Any]:
    """What leaving out each feature group costs; empty without such refits."""
    found = r.ask(queries.FEATURE_GAINS)
    bought = [row for row in found.rows if row["gain"] is not None and row["left_out"] != "nothing"]
    if not bought:
        return []
    return [
        Title("What each feature group bought"),
        Plot(
            plots.bars(
                [row["left_out"] for row in bought],
                {"bought": [row["gain"] for row in bought]},
                "Spearman with the group less Spearman without",
            ),
            "Rank agreement that each feature group bought",
            "The estimator fitted again without the group, on the same labels and judged on the same audit "
            "values. Below zero: it would rank better without.",
            table(found, "left out", "Spearman:rate", "R2:rate", "bought:gain"),
        ),
    ]


def learning_curve(r: Reader) -> list[Any]:
    """Rank agreement by number of labels, up to twice those that there are; empty without such refits."""
    found, doubled = r.ask(queries.CURVE), r.ask(queries.DOUBLED)
    points = {
        origin: [
            (row["labels"], row["spearman"])
            for row in found.rows
            if row["origin"] == origin and row["spearman"] is not None
        ]
        for origin in ("measured", "extrapolated")
    }
    if not points["measured"]:
        return []
    blocks: list[Any] = [Title("What more labels would bring")]
    if points["extrapolated"]:
        blocks.append(
            say(
                "With {} labels the rank agreement is {}; {} labels would bring about {}, if the curve goes "
                "on as it does.",
                value(doubled, "labels", "int"), value(doubled, "spearman", "rate"),
                value(doubled, "more", "int"), value(doubled, "expected", "rate"),
            )
        )  # fmt: skip
    blocks.append(
        Plot(
            plots.curve(points["measured"], points["extrapolated"], ("labels", "Spearman")),
            "Rank agreement with exact values by the number of labels",
            "The estimator fitted on part of the labels and judged on the same audit values.",
            table(found, "labels:int", "point", "Spearman:rate", "R2:rate"),
        )
    )
    return blocks


def labels(r: Reader) -> list[Any]:
    """The label design and its price; empty in runs made before these were kept."""
    facts = r.ask(FACTS)
    design, pairs, cost, unit = (
        facts.where("fact", f"label_{name}") for name in ("design", "pairs", "cost", "cost_unit")
    )
    kind = design.first.get("text")
    if not kind or not pairs.rows:
        return []
    about = f" ({_DESIGNS[kind]})" if kind in _DESIGNS and not r.pointwise else ""
    line = say(
        f"{{}} exact values were computed as labels, by the design “{{}}”{about}",
        value(pairs, "value", "int"), value(design, "text"),
    )  # fmt: skip
    price = (
        say(", at a cost of {} {}.", value(cost, "value", "score"), value(unit, "text"))
        if cost.rows and unit.rows
        else say(".")
    )
    return [Title("The labels"), Sentence((*line.parts, *price.parts))]


def refinement(r: Reader) -> list[Title | Sentence | Table]:
    """How the subset moved while exact values were bought at its edge; empty when none were."""
    found = r.ask(queries.REFINEMENT)
    if not found.rows:
        return []
    bought = r.ask(FACTS).where("fact", "refined_pairs")
    lead = (
        say(
            "{} more exact values were bought for rows near the edge of the subset, where an estimate that "
            "is off changes who is chosen.",
            value(bought, "value", "int"),
        )
        if bought.rows
        else say("More exact values were bought for rows near the edge of the subset.")
    )
    return [
        Title("Exact values where it matters"),
        lead,
        say(
            "After each round the subset was chosen again. Jaccard compares it with the one before: rows in "
            "both as a share of rows in either."
        ),
        table(found, "round:int", "exact values:int", "entered:int", "left:int", "Jaccard:rate"),
    ]
