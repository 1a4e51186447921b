"""The sections on the scores: how they are distributed, where they agree, and how well they are learned."""

from __future__ import annotations

from typing import Any

from nncift_core.report import prune_queries as queries
from nncift_core.report.blocks import Items, Plot, Section, Sentence, Title, say, table, value
from nncift_core.report.plots import intervals
from nncift_core.report.prune_plots import data_map, overlaps, score_histograms
from nncift_core.report.queries import Data, Reader

HOLDS = {"yes": "good", "no": "bad"}


def scores(r: Reader) -> Section:
    """Histograms by class, the data map, and how far the scores' tails agree."""
    section = Section("scores", "The scores")
    found = r.ask(queries.HAS_SCORES)
    if not found.first["scores"]:
        section.blocks = [say("No score was measured in this run.")]
        return section
    section.blocks = [
        say(
            "{} scores of {} rows. A class far to one side of the grey shape is hard or easy as a whole: "
            "pruning that end by a score takes from it first.",
            value(found, "scores", "int"), value(found, "rows", "int"),
        ),
        *_histograms(r),
        *_data_map(r),
        *_overlaps(r),
    ]  # fmt: skip
    return section


def _histograms(r: Reader) -> list[Any]:
    found, classes = r.ask(queries.HISTOGRAMS), r.ask(queries.CLASSES)
    if not found.rows:
        return []
    named = _named(classes)
    panels: dict[str, Any] = {}
    for function in dict.fromkeys(row["function"] for row in found.rows):
        rows = [row for row in found.rows if row["function"] == function]
        edges = [(row["from_value"], row["to_value"]) for row in rows]
        panels[function] = edges, {title: [row[c] for row in rows] for c, title in named.items()}
    numbers = table(
        found, "score", "from:score", "to:score", "all rows:int", "hardest:int", "second hardest:int",
        "second easiest:int", "easiest:int", folded="numbers and query",
    )  # fmt: skip
    text = "All rows in grey; lines are the classes of highest and lowest mean difficulty over all scores."
    return [
        Plot(score_histograms(panels), "Distribution of every score, and of single classes", text, numbers),
        say(
            "Difficulty is a row’s place among all rows from easiest to hardest, as a share, averaged over "
            "the scores and then over the class."
        ),
        table(classes, "which", "class", "rows:int", "difficulty:loss"),
    ]


def _named(classes: Data) -> dict[str, str]:
    """Titles of the histogram's columns: all rows, then classes that are among the extreme ones."""
    labels = [row["label"] for row in classes.rows]
    hard, rest = labels[:2], labels[2:]
    easy = list(zip(("easiest_2", "easiest"), rest[-2:], strict=True)) if len(rest) > 1 else []
    easy = easy or [("easiest", label) for label in rest]
    pairs = [*zip(("hardest", "hardest_2"), hard, strict=False), *easy]
    words = {"hardest": "hardest", "hardest_2": "second hardest", "easiest_2": "second easiest"}
    return {"rows": "all rows"} | {c: f"{words.get(c, c)}: {label}" for c, label in pairs}


def _data_map(r: Reader) -> list[Any]:
    found = r.ask(queries.DATA_MAP)
    if not found.rows:
        return [say("There is no data map: it wants both confidence and variability.")]
    columns = ("variability:score", "confidence:score", "rows:int", "margin above zero:share")
    text = "Low and to the left: rows never learned, among them wrong labels. To the right: rows that waver."
    numbers = table(found, *columns, folded="numbers and query")
    alt = "Data map: variability against confidence"
    return [Title("Data map"), Plot(data_map(found.rows), alt, text, numbers)]


def _overlaps(r: Reader) -> list[Any]:
    shares = [row["share"] for row in r.ask(queries.OVERLAP_SHARES).rows]
    blocks: list[Any] = []
    for share in shares:
        found = r.ask(queries.overlap(share))
        names = list(dict.fromkeys(row[c] for c in ("score_a", "score_b") for row in found.rows))
        if len(names) < 2:
            continue
        panels: dict[str, dict[tuple[str, str], float]] = {}
        for row in found.rows:
            tail = panels.setdefault(f"the {row['tail']} tails", {})
            tail[row["score_a"], row["score_b"]] = row["overlap"]
            tail.setdefault((row["score_b"], row["score_a"]), row["overlap"])
        numbers = table(
            found,
            "tail",
            "share of rows:share",
            "score",
            "other",
            "overlap:share",
            folded="numbers and query",
        )
        blocks += [
            say(
                "Tails of {} of the rows: how many rows of one score’s tail are in the other’s. By chance "
                "it would be that share; scores that hardly agree drop different rows.",
                value(found, "share", "share"),
            ),
            Plot(overlaps(panels, names, share), "Overlap of the scores’ tails", "In per cent.", numbers),
        ]
    return [Title("Where scores agree"), *blocks] if blocks else []


def learned(r: Reader) -> Section:
    """How well scores are predicted from embeddings, beside baselines."""
    section = Section("learned", "Learned scores")
    found = r.ask(queries.LEARNED)
    if not found.rows:
        section.blocks = [say("No score was learned in this run.")]
        return section
    section.blocks = [
        say(
            "New rows get a score from their embedding, without training again. Trust a learned score only "
            "where its verdict is good; all figures are of rows that no fit has seen."
        )
    ]
    blocks = _against_best(found)
    if blocks:
        image = intervals(blocks, "Spearman, with its interval at 90 %")
        text = "Filled: the learned score; open: the best of its baselines."
        section.blocks.append(Plot(image, "Rank agreement of learned scores and baselines", text, None))
    columns = (
        "score", "predictor", "rows:int", "R2:rate", "Pearson:rate", "Spearman:rate", "from:rate", "to:rate",
        "top 10 % found:rate", "verdict:verdict", "why",
    )  # fmt: skip
    judged = r.ask(queries.LEARNED_JUDGED)
    section.blocks += [table(judged, *columns)] if judged.rows else []
    section.blocks.append(table(found, *columns, folded="with all baselines: numbers and query"))
    return section


def _against_best(found: Data) -> list[list[dict[str, Any]]]:
    """Per score its learned predictors, and the best of the others."""
    blocks: dict[str, list[dict[str, Any]]] = {}
    for row in found.rows:
        block, own = blocks.setdefault(row["function"], []), row["verdict"] is not None
        if row["spearman"] is not None and (own or all(line["own"] for line in block)):
            name = f"{row['function']}: {row['predictor']}"
            limits = {
                k: row[k] if None not in (row["lower"], row["upper"]) else None for k in ("lower", "upper")
            }
            block.append({"name": name, "spearman": row["spearman"], **limits, "own": own})
    return [block for block in blocks.values() if block]


def findings(r: Reader) -> Section:
    """Which of the paper's claims hold on this data."""
    section = Section("findings", "The paper’s claims")
    found = r.ask(queries.FINDINGS)
    if not found.rows:
        section.blocks = [say("The paper’s claims were not checked in this run.")]
        return section
    section.blocks = [
        say("What the paper reports, measured again on this data, whatever comes out."),
        Items(tuple(_claim(found.where("finding", row["finding"])) for row in found.rows)),
        table(
            found, "finding", "claim", "holds", "effect:gain", "±:loss", "figures",
            folded="numbers and query",
        ),
    ]  # fmt: skip
    return section


def _claim(one: Data) -> Sentence:
    line = say("{} {}", value(one, "claim", "long"), value(one, "text", "long"))
    return Sentence(line.parts, HOLDS.get(one.first["holds"], "open"), value(one, "holds"))
