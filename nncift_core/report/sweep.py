"""The page of a sweep: curves, heat maps and tables over its view."""

from __future__ import annotations

from typing import Any

from nncift_core.errors import UserError
from nncift_core.report import sweep_queries as queries
from nncift_core.report.blocks import Plot, Section, Title, say, table, value
from nncift_core.report.plots import bars
from nncift_core.report.queries import Data, Reader
from nncift_core.report.study_plots import Line, curves, heat
from nncift_core.report.template import fill
from nncift_core.store.sweeps import read_sweeps
from nncift_core.store.workspace import Workspace

HEADINGS = {
    "figures": "How good are estimates, by how much is labelled",
    "estimators": "Which estimator, which features, which labels",
}
METRICS = {
    "mse": ("Mean squared error", "On a logarithmic scale."),
    "r2": ("R2", "Share of variance explained; 0 is a constant. Below -1 nothing is drawn."),
    "spearman": ("Spearman", "Rank agreement over all pairs of the quadrant."),
    "spearman_per_target": ("Spearman within targets", "Rank agreement inside each target row, on average."),
    "recall": (
        "Top 10 %",
        "Share of the truly best tenth of the pairs found; a constant finds a tenth.",
    ),
}
BASELINES = (
    "constant",
    "row + column means",
    "random",
    "embedding cosine",
    "bm25",
    "length",
    "gradient proxy",
)
QUADRANTS = ("Q1", "Q2", "Q3", "Q4")
GAINED = (
    "Rows are selected on estimates, and judged on exact values: 1 gains as much over random rows as "
    "selecting on exact values does, 0 nothing."
)


def render_sweep(ws: Workspace, run_id: str) -> str:
    """The page of a sweep as one HTML file that needs nothing else, read from its view.

    The same for the same results. Raises UserError for a sweep that is not there or has no result.
    """
    found = read_sweeps(ws, run_id)
    if not found:
        raise UserError(f"no sweep {run_id!r}", field="--run", mend="Run `nncift sweep CONFIG` first.")
    reader, facts, study = Reader(ws, run_id), found[-1]["facts"], found[-1]["study"]
    sections = [_head(reader, facts)]
    sections += _figures(reader) if study == "figures" else _estimators(reader)
    sections += _failed(reader)
    heading = HEADINGS[study]
    return fill(ws, run_id, sections, title=f"nncift sweep {run_id}", heading=heading, contents=False)


def _head(r: Reader, facts: dict[str, Any]) -> Section:
    head = r.ask(queries.HEAD)
    text = (
        f"{{}} on an exact matrix of {facts['rows']:,} pool rows x {facts['columns']:,} columns: {{}} "
        f"estimators and baselines, {{}} draws of labels each. Subsets are selected by {facts['rule']}. "
        "Estimators are measured on pairs that they were not fitted on; spread is the standard deviation "
        "over draws."
    )
    section = Section("outcome", "Outcome")
    section.blocks = [
        say(text, value(head, "function"), value(head, "predictors", "int"), value(head, "seeds", "int"))
    ]
    return section


def _figures(r: Reader) -> list[Section]:
    labels = Section("labels", "By share of labelled rows and columns")
    labels.blocks = [
        say(
            "Labels are u of the rows times u of the columns (Q1). Q2 pairs a labelled row with another "
            "column, Q3 another row with a labelled column, Q4 neither."
        )
    ]
    labels.blocks += [plot for metric in METRICS for plot in _against_u(r, metric)]
    return [labels, *_sizes(r), *_selected(r)]


def _against_u(r: Reader, metric: str) -> list[Plot]:
    found = r.ask(queries.against_u(metric))
    panels = _panels(found, "u", "mean", "spread")
    if not panels:
        return []
    title, caption = METRICS[metric]
    image = curves(panels, ("u", title), log_y=metric == "mse", limits=(-1, 1.05) if metric == "r2" else None)
    columns = ("quadrant", "predictor", "u:score", "mean:score", "spread:score", "draws:int")
    return [Plot(image, f"{title} against u, per quadrant", f"{title}. {caption}", _folded(found, *columns))]


def _panels(found: Data, x: str, mean: str, spread: str) -> dict[str, dict[str, Line]]:
    """Lines of the predictors in Q1 to Q4, learned ones first, with bands; points without a value go."""
    points: dict[str, dict[str, list[tuple[float, float, float | None]]]] = {}
    for row in found.rows:
        if row[mean] is not None and row["quadrant"] in QUADRANTS:
            series = points.setdefault(row["quadrant"], {})
            # A band around every baseline would hide the lines.
            band = None if row["predictor"] in BASELINES else row[spread]
            series.setdefault(row["predictor"], []).append((row[x], row[mean], band))
    return {
        quadrant: {name: Line(tuple(at)) for name, at in sorted(series.items(), key=_learned_first)}
        for quadrant, series in points.items()
    }


def _learned_first(item: tuple[str, Any]) -> tuple[bool, str]:
    return item[0] in BASELINES, item[0]


def _sizes(r: Reader) -> list[Section]:
    found = r.ask(queries.SIZES)
    if not found.rows:
        return []
    section = Section("sizes", "By size of the network")
    for metric, title in (("mse", "Mean squared error"), ("spearman", "Spearman")):
        panels = _panels(found, "parameters", metric, f"{metric}_spread")
        if panels:
            image = curves(panels, ("parameters", title), log_y=metric == "mse")
            text = f"{title} of the networks by their number of parameters."
            section.blocks.append(Plot(image, f"{title} against parameters, per quadrant", text, None))
    columns = ("predictor", "hidden:int", "parameters:int", "quadrant")
    measures = ("MSE:score", "spread:score", "Spearman:rate", "spread:rate")
    section.blocks.append(_folded(found, *columns, *measures))
    return [section]


def _selected(r: Reader) -> list[Section]:
    found = r.ask(queries.SELECTED)
    if not found.rows:
        return []
    us, vs = (sorted({row[k] for row in found.rows}) for k in ("u", "v"))
    by = {(row["predictor"], row["u"], row["v"]): row["gained"] for row in found.rows}
    names = sorted({row["predictor"] for row in found.rows}, key=lambda name: _learned_first((name, None)))
    panels: dict[str, list[list[float | None]]] = {
        name: [[by.get((name, u, v)) for u in us] for v in vs] for name in names
    }
    section = Section("subsets", "What the selected subset gains")
    texts = [[f"{x:g}" for x in xs] for xs in (us, vs)]
    image = heat(panels, texts[0], texts[1], ("u, labelled", "v, selected"))
    columns = ("predictor", "u:score", "v:score", "share of gain:rate", "spread:rate", "overlap:rate")
    section.blocks = [
        say(GAINED),
        Plot(image, "Share of the gain by u and v", "1 less the number is the regret.",
             _folded(found, *columns, "draws:int")),
    ]  # fmt: skip
    return [section]


def _estimators(r: Reader) -> list[Section]:
    section = Section("tournament", "Estimators and baselines, by label design")
    section.blocks = [
        say(
            "All designs cost what a block of u of the rows times u of the columns costs. Within targets: "
            "Spearman inside each target row. Top rows: share of the best tenth of the rows by mean score "
            "that is found. Share of gain: of the subset. " + GAINED
        )
    ]
    for row in r.ask(queries.DESIGNS).rows:
        found = r.ask(queries.tournament(row["design"]))
        if found.rows:
            section.blocks += [Title(f"Labels: {row['design']}"), *_tournament(found)]
    by_quadrant = r.ask(queries.BY_QUADRANT)
    if by_quadrant.rows:
        columns = (
            "predictor",
            "quadrant",
            "MSE:score",
            "R2:rate",
            "Spearman:rate",
            "spread:rate",
            "top:rate",
        )
        section.blocks += [Title("The block, by quadrant"), _folded(by_quadrant, *columns)]
    return [section, *_groups(r)]


def _tournament(found: Data) -> list[Any]:
    columns = (
        "predictor", "labels:int", "R2:rate", "Spearman:rate", "spread:rate", "within targets:rate",
        "top rows:rate", "share of gain:rate", "spread:rate", "overlap:rate", "fit s:rate",
        "predict s:rate", "draws:int",
    )  # fmt: skip
    names = [row["predictor"] for row in found.rows]
    shown = {
        "share of gain": [row["gained"] or 0.0 for row in found.rows],
        "Spearman": [row["spearman"] or 0.0 for row in found.rows],
    }
    alt = "Spearman and share of gain of every estimator"
    return [
        Plot(bars(names, shown, "mean over draws"), alt, "On unseen pairs.", None),
        table(found, *columns),
    ]


def _groups(r: Reader) -> list[Section]:
    found = r.ask(queries.GROUPS)
    if not found.rows:
        return []
    section = Section("groups", "What each feature group buys")
    columns = (
        "left out", "estimator", "labels", "Spearman:rate", "Spearman lost:gain", "spread:rate",
        "R2 lost:gain", "share of gain lost:gain",
    )  # fmt: skip
    section.blocks = [
        say("The job's estimator without one group, against itself with all of them on the same labels."),
        table(found, *columns),
    ]
    return [section]


def _failed(r: Reader) -> list[Section]:
    found = r.ask(queries.FAILED)
    if not found.rows:
        return []
    section = Section("failed", "What could not be fitted")
    section.blocks = [table(found, "setting", "labels", "estimator", "reason", "fits:int")]
    return [section]


def _folded(found: Data, *columns: str) -> Any:
    return table(found, *columns, folded="numbers and query")
