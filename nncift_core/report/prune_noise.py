"""The sections on wrong labels: how well planted ones are found, and the suspects of the data itself."""

from __future__ import annotations

from typing import Any

from nncift_core.report import prune_queries as queries
from nncift_core.report.blocks import Code, Plot, Section, Title, say, table, value
from nncift_core.report.prune_curves import accuracy_plot, best_table
from nncift_core.report.prune_plots import ranges
from nncift_core.report.queries import FACTS, Reader

KINDS = {
    "shuffle": "Shuffled labels",
    "uniform": "Labels flipped to any class",
    "confusable": "Labels flipped to the nearest class",
}


def noise(r: Reader) -> Section:
    """How well every score finds planted wrong labels, and what dropping rows then brings."""
    section = Section("noise", "Label noise")
    found = r.ask(queries.NOISES)
    if not found.rows:
        section.blocks = [say("Label noise was not studied in this run.")]
        return section
    section.blocks = [
        say(
            "Labels were made wrong on purpose, then every score was asked for them. Flips to any class are "
            "easy to find; flips to the nearest class are nearer to how people err."
        ),
        say(
            "Average precision judges the whole ranking from the hardest row down; found is the share of the "
            "planted labels among as many of the hardest rows."
        ),
    ]
    for row in found.rows:
        section.blocks += _of_kind(r, row["noise"], row["noise_rate"])
    return section


def _of_kind(r: Reader, kind: str, rate: float) -> list[Any]:
    planted, scores = r.ask(queries.noise(kind, rate)), r.ask(queries.detection(kind, rate))
    blocks: list[Any] = [Title(KINDS.get(kind, "Planted noise"))]
    if scores.rows:
        drawn = [row for row in scores.rows if row["average_precision"] is not None]
        numbers = table(
            scores, "score", "average precision:loss", "±:loss", "AUC:loss", "±:loss", "found:share",
            "±:loss", "seeds:int",
        )  # fmt: skip
        blocks.append(
            say(
                "At a rate of {}, {} labels were wrong on average over {} seeds. Spreads are standard "
                "deviations over seeds.",
                value(planted, "noise_rate", "share"), value(planted, "planted", "score"),
                value(planted, "seeds", "int"),
            )
        )  # fmt: skip
        if drawn:
            columns = [
                [row[c] for row in drawn] for c in ("line", "average_precision", "average_precision_spread")
            ]
            image = ranges(columns[0], columns[1], columns[2], "average precision", rate)
            alt = "Average precision of every score at finding planted labels"
            blocks.append(Plot(image, alt, "How well each score ranks the planted labels first.", None))
        blocks.append(numbers)
    curve = r.ask(queries.curve("noise", kind, rate))
    if curve.rows:
        blocks += [
            say(
                "After pruning, against all the noisy rows (dashed). Planted left counts the wrong labels "
                "that are still among the kept rows: a gain that leaves most of them is not due to their "
                "removal."
            ),
            *accuracy_plot(r, "noise", kind, rate),
            say("The most accurate subset of each share:"),
            best_table(r, "noise", kind, rate),
        ]
    return blocks


def suspects(r: Reader) -> Section:
    """The rows whose labels look wrong, with their texts."""
    section = Section("suspects", "Suspects")
    total = r.ask(queries.SUSPECTS_COUNT)
    if not total.first["n"]:
        section.blocks = [say("No label was put under suspicion in this run.")]
        return section
    pairs = bool(r.ask(queries.PAIRS).first["n"])
    found = r.ask(queries.suspects(pairs))
    csv = r.ask(FACTS).where("fact", "suspects_csv")
    section.blocks = [
        say(
            "Rows whose given label the models never came to believe, the likeliest wrong ones first. They "
            "are suspects, not errors: read them before you relabel. Consensus is the mean difficulty over "
            "all scores, agreement the share of the scores that count the row among their hardest."
        ),
        _listed(total, csv),
    ]
    texts = ("text:long", "second text:long") if pairs else ("text:long",)
    columns = ("rank:int", "row", "given", "predicted", "probability:loss", "consensus:loss")
    section.blocks.append(table(found, *columns, "agreement:share", *texts, cards=True))
    return section


def _listed(total: Any, csv: Any) -> Any:
    if not csv.first.get("text"):
        return say(
            "{} rows are in the view {}; the first of them:", value(total, "n", "int"), Code("suspects")
        )
    return say(
        "All {} are in {}, inside the workspace’s folder, ready for relabelling; the first of them:",
        value(total, "n", "int"), value(csv, "text"),
    )  # fmt: skip
