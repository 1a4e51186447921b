"""The section "Can you trust this?": the verdict on the estimates, and all that it rests on."""

from __future__ import annotations

from typing import Any

from nncift_core.report import plots, studies
from nncift_core.report import trust_queries as queries
from nncift_core.report.blocks import Items, Plot, Section, Sentence, Title, mood, say, table, value
from nncift_core.report.notes import FLAGS
from nncift_core.report.queries import FACTS, Data, Reader

_PARTS = {
    "Q1": "Q1 pairs a labelled row with a labelled target (fitted)",
    "Q2": "Q2 a labelled row with another target",
    "Q3": "Q3 another row with a labelled target",
    "Q4": "Q4 neither",
    "labels": "“labels” are the pairs that were fitted",
    "unseen": "“unseen” are pairs without a label",
}
_POINTWISE_PARTS = {"Q1": "Q1 are labelled rows (fitted)", "Q3": "Q3 other rows"}
_MEASURES = (
    "R2 is the share of variance explained (below zero: worse than a constant). Spearman is rank agreement, "
    "with its 90 % interval; within target, the same inside each target row. Top 10 % is the share of the "
    "truly best tenth among the predicted best tenth; a constant finds about a tenth of it."
)


def trust(r: Reader) -> Section:
    """Whether the estimates may be used, and why; all-exact runs have none to judge."""
    section = Section("quality", "Can you trust this?")
    if not verdict_lines(r) and not r.ask(queries.QUALITY).rows:
        section.blocks = [all_exact(r)]
        return section
    parts = (
        _verdict, _scatter, _quality, studies.candidates, _calibration, studies.features,
        studies.learning_curve, studies.labels, studies.refinement,
    )  # fmt: skip
    section.blocks = [block for part in parts for block in part(r)]
    return section


def all_exact(r: Reader) -> Sentence:
    """That nothing was estimated and, where that was the program's choice, why."""
    facts = r.ask(FACTS)
    if facts.where("fact", "learning_pointless").first.get("value"):
        return say(f"Every influence value is exact: {FLAGS['learning_pointless']}.", mood="good")
    return say("Every influence value is exact; nothing was estimated.", mood="good")


def verdict_lines(r: Reader) -> list[Sentence]:
    """The gate's verdict, then what it means for the pairs that are not exact; empty without a verdict."""
    found = r.ask(queries.VERDICT)
    if not found.rows:
        return []
    level = found.first["level"]
    line = say(
        "Estimates by {}, judged on {} exact values that it has not seen: {}.",
        value(found, "estimator"), value(found, "pairs", "int"), value(found, "reason", "long"),
    )  # fmt: skip
    return [Sentence(line.parts, mood(level), value(found, "level")), _used(found)]


def _used(found: Data) -> Sentence:
    level, used = found.first["level"], value(found, "used")
    if level == "trusted":
        return say("What is not exact is estimated by {}.", used, mood="good")
    if level == "weak":
        return say("What is not exact is estimated by {}; use single estimates with care.", used)
    if found.first["used"] == found.first["estimator"]:
        return say(
            "What is not exact is still filled by {}, since no cheap baseline did better: take these values "
            "for unknown, and trust only exact ones.",
            used, mood="bad",
        )  # fmt: skip
    advice = (
        " A constant ranks nothing: only exact values tell rows apart."
        if found.first["used"] == "constant"
        else ""
    )
    return say(
        "The refused estimates select nothing: what is not exact is filled by the cheap baseline “{}” "
        "instead. More labels (influence.label_fraction) may help." + advice,
        used, mood="bad",
    )  # fmt: skip


def _verdict(r: Reader) -> list[Any]:
    lines = verdict_lines(r)
    moved = r.ask(queries.DRIFT)
    if lines and moved.rows:
        lines.append(say("On data that came later: {}.", value(moved, "told", "long")))
    return [Items(tuple(lines))] if lines else []


def _scatter(r: Reader) -> list[Any]:
    found = r.ask(queries.SCATTER)
    if not found.rows:
        return []
    x, y, n = ([row[name] for row in found.rows] for name in ("predicted", "exact", "pairs"))
    unit = r.unit
    return [
        Title("Predicted against exact"),
        Plot(
            plots.scatter(x, y, n, ("predicted", "exact")),
            "Exact values of the audit against what was predicted for them, with the diagonal",
            f"The audit’s {unit}, which no fit has seen. A dot is one, or the mean of several that lie "
            "together (larger). Where dots follow the dashed diagonal, predictions are right; a level cloud "
            "means that they say nothing.",
            table(found, "predicted:score", "exact:score", f"{unit}:int", folded="numbers and query"),
        ),
    ]


def _quality(r: Reader) -> list[Any]:
    """Estimator and baselines on everything measured, then by part; old runs know parts only."""
    parts, pooled = r.ask(queries.QUALITY), r.ask(queries.QUALITY_ALL)
    if not parts.rows and not pooled.rows:
        return []
    names = _POINTWISE_PARTS if r.pointwise else _PARTS
    seen = dict.fromkeys(row["quadrant"] for row in parts.rows)
    said = say(f"{', '.join(names[q] for q in seen if q in names)}. {_MEASURES}")
    columns = (
        "part", "predictor", "pairs:int", "R2:rate", "Spearman:rate", "from:rate", "to:rate",
        "within target:rate", "top 10 %:rate", "verdict:verdict",
    )  # fmt: skip
    blocks = [Title("Estimates beside exact values"), said]
    if pooled.rows:
        blocks += [
            table(
                pooled,
                "predictor", "role", "pairs:int", "R2:rate", "Spearman:rate", "from:rate", "to:rate",
                "centred:rate", "within target:rate", "top 10 %:rate",
            ),
            *_agreement(r, pooled),
            say(
                "Centred is Spearman after each target’s mean was taken off. The estimator part by part:"
                if not r.pointwise
                else "The estimator part by part:"
            ),
            table(r.ask(queries.QUALITY_OWN), *columns),
            table(parts, *columns, folded="every predictor part by part"),
        ]  # fmt: skip
    else:
        blocks += [table(parts, *columns), *_agreement(r, pooled)]
    by_task = r.ask(queries.QUALITY_BY_TASK)
    if by_task.rows:
        measures = ("pairs:int", "R2:rate", "Spearman:rate", "from:rate", "to:rate", "verdict:verdict")
        blocks += [Title("By target task"), table(by_task, "task", "part", *measures)]
    return blocks


def _agreement(r: Reader, pooled: Data) -> list[Plot]:
    """The plot of rank agreement; none where no predictor has a rank agreement at all."""
    own = {(row["quadrant"], row["predictor"]) for row in r.ask(queries.QUALITY_OWN).rows}
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in r.ask(queries.QUALITY).rows:
        mine = (row["quadrant"], row["predictor"]) in own
        if row["spearman"] is not None and (mine or not pooled.rows):
            name = f"{row['predictor']}, {row['quadrant']}"
            parts.setdefault(row["quadrant"], []).append({**row, "own": mine, "name": name})
    whole = [
        {**row, "own": row["role"] == "estimator", "name": row["predictor"]}
        for row in pooled.rows
        if row["spearman"] is not None
    ]
    # Beside the whole, the estimator's parts are one block.
    blocks = [whole, [row for part in parts.values() for row in part]] if whole else list(parts.values())
    drawn = [block for block in blocks if block]
    if not drawn:
        return []
    alt = "Rank agreement of estimator and baselines with exact values"
    caption = (
        "Filled dots are the estimator’s. It earns its cost where its interval lies right of every "
        "baseline’s dot. A constant ranks nothing and has no dot."
    )
    return [Plot(plots.intervals(drawn, "Spearman"), alt, caption, None)]


def _calibration(r: Reader) -> list[Any]:
    width = r.ask(FACTS).where("fact", "interval_half_width")
    coverage, tenths = r.ask(queries.COVERAGE), r.ask(queries.TENTHS)
    if width.first.get("value") is None and not tenths.rows:
        return []
    blocks: list[Any] = [Title("How far off an estimate may be")]
    if width.first.get("value") is not None:
        where = "" if r.pointwise else " (columns lower and upper of the view influence)"
        blocks.append(
            say(
                f"About 90 % of estimates lie within {{}} of the exact value{where}. That holds for "
                "estimates at large; it does not say which of them are the good ones.",
                value(width, "value", "score"),
            )
        )
    if coverage.rows:
        blocks.append(
            say(
                f"For comparison, the exact values of the {{}} audit {r.unit} have a standard deviation of "
                "{}; {} of them lie inside their interval (these values set its width).",
                value(coverage, "pairs", "int"), value(coverage, "spread", "score"),
                value(coverage, "inside", "share"),
            )
        )  # fmt: skip
    if tenths.rows:
        columns = ("tenth:int", f"{r.unit}:int", "mean predicted:score", "mean exact:score")
        blocks += [
            say(
                "The audit in tenths, lowest predictions first. Calibrated estimates agree with the exact "
                "mean; for choosing rows it is enough that the exact mean rises with the predicted one."
            ),
            table(tenths, *columns),
        ]
    return blocks
