"""The page of an audit: what models and planted rows say of every method's values."""

from __future__ import annotations

from nncift_core.errors import UserError
from nncift_core.report import attribution_queries as queries
from nncift_core.report.blocks import Plot, Section, Sentence, say, table, value
from nncift_core.report.plots import intervals
from nncift_core.report.queries import FACTS, Data, Reader
from nncift_core.report.study_plots import Line, curves
from nncift_core.report.template import fill
from nncift_core.store.workspace import Workspace

_INTERVAL = ("lower:gain", "upper:gain")


def render_audit(ws: Workspace, run_id: str) -> str:
    """The page of an audit as one HTML file that needs nothing else, read from its views.

    The same for the same results. Raises UserError for a run without a result, or that is no audit.
    """
    reader = Reader(ws, run_id)
    facts = reader.ask(FACTS)
    if not facts.where("fact", "subset_models").rows:
        raise UserError(f"run {run_id} is no audit", mend="Name a run of `nncift audit`.")
    sections = [_head(reader, facts)]
    for make in (_lds, _removed, _wrong, _duplicates, _models):
        sections += make(reader)
    return fill(
        ws, run_id, sections, title=f"nncift audit {run_id}", heading="Do values say what training does"
    )


def _head(r: Reader, facts: Data) -> Section:
    head = r.ask(queries.HEAD)

    def fact(name: str, how: str = "int", column: str = "value") -> object:
        return value(facts.where("fact", name), column, how)

    section = Section("outcome", "Outcome")
    text = (
        "{} methods of valuing {} pool rows, tested on {} target rows (queries). Models were trained on "
        "random subsets and without rows of high value: {} in all. Intervals are of 90 %."
    )
    parts = (value(head, "methods", "int"), fact("pool_rows"), fact("queries"), fact("models"))
    section.blocks = [say(text, *parts)]  # type: ignore[arg-type]
    if facts.where("fact", "loss_trained").first.get("value") is not None:
        losses = (fact(name, "loss") for name in ("loss_untrained", "loss_trained"))
        text = (
            "The queries' mean loss is {} nats a token under the untrained model and {} under those trained "
            "on random subsets, over which its standard deviation is {}."
        )
        section.blocks.append(say(text, *losses, fact("loss_spread", "score")))  # type: ignore[arg-type]
    section.blocks += _doubts(facts)
    return section


def _doubts(facts: Data) -> list[Sentence]:
    known = {row["fact"]: row["value"] for row in facts.rows}
    found = []
    if known.get("default_finetune"):
        found.append(say("The config has no section [finetune]: models were trained with its defaults."))
    if known.get("seed_agreement") is not None:
        agreement = value(facts.where("fact", "seed_agreement"), "value", "rate")
        found.append(say("Two seeds rank the models of a query alike by a Spearman of {}.", agreement))
    if known.get("queries_in_pool"):
        n = value(facts.where("fact", "queries_in_pool"), "value", "int")
        found.append(say("{} queries stand in the pool already and were not copied into it.", n))
    failed = facts.where("fact", "failed")
    if failed.first.get("text"):
        found.append(say("Some parts failed: {}.", value(failed, "text", "long")))
    return found


def _lds(r: Reader) -> list[Section]:
    found = r.ask(queries.LDS)
    if not found.rows:
        return []
    section = Section("lds", "Do values predict losses (LDS)")
    section.blocks = [
        say(
            "Per query, Spearman over the models of the sum of the values of the rows a model was trained on "
            "with how low its loss is; mean over queries. 1 predicts every order, 0 none. Intervals draw "
            "queries and models anew."
        )
    ]
    lines = [
        {
            "name": row["method"], "spearman": row["value"], "lower": row["lower"], "upper": row["upper"],
            "own": row["origin"] != "baseline",
        }
        for row in found.rows
    ]  # fmt: skip
    numbers = table(
        found, "method", "values", "LDS:loss", *_INTERVAL, "queries:int", folded="numbers and query"
    )
    alt = "LDS of every method with its interval"
    section.blocks.append(Plot(intervals([lines], "LDS"), alt, "Baselines have open dots.", numbers))
    by_task = r.ask(queries.LDS_BY_TASK)
    if by_task.rows:
        columns = ("method", "task", "LDS:loss", *_INTERVAL, "queries:int")
        section.blocks.append(table(by_task, *columns, folded="by target task"))
    notes = r.ask(queries.NOTES)
    if notes.rows:
        section.blocks.append(table(notes, "method", "note"))
    return [section]


def _removed(r: Reader) -> list[Section]:
    found = r.ask(queries.REMOVED)
    if not found.rows:
        return []
    section = Section("removed", "What is lost without the best rows")
    section.blocks = [
        say(
            "Rise of the loss, in nats a token, of models trained without the rows of highest value, beyond "
            "that of models trained without as many random rows. qld: each query without its own best rows; "
            "top-k: all queries without the rows of highest mean value. Above 0 the rows mattered."
        )
    ]
    lines: dict[str, dict[str, list[tuple[float, float, float | None]]]] = {}
    for row in found.rows:
        half = None if row["lower"] is None else (row["upper"] - row["lower"]) / 2
        of = lines.setdefault(row["metric"], {}).setdefault(row["method"], [])
        of.append((row["share"], row["value"], half))
    if len({row["share"] for row in found.rows}) > 1:
        panels = {m: {n: Line(tuple(p)) for n, p in of.items()} for m, of in lines.items()}
        image = curves(panels, ("share left out", "rise of the loss"))
        section.blocks.append(Plot(image, "Rise of the loss by share left out", "Bands: 90 %.", None))
    columns = ("method", "test", "left out:share", "rise:gain", *_INTERVAL, "queries:int")
    section.blocks.append(table(found, *columns))
    return [section]


def _wrong(r: Reader) -> list[Section]:
    found = r.ask(queries.WRONG)
    if not found.rows:
        return []
    section = Section("wrong", "Planted wrong answers")
    section.blocks = [
        say(
            "Some pool rows got the answer of another row. AUC: how often such a row has a lower mean value "
            "than another row; 0.5 is chance, below it wrong answers are valued higher."
        ),
        table(found, "method", "AUC:loss", "lower:loss", "upper:loss", "planted:int"),
    ]
    return [section]


def _duplicates(r: Reader) -> list[Section]:
    found = r.ask(queries.DUPLICATES)
    if not found.rows:
        return []
    section = Section("duplicates", "Planted copies of queries")
    section.blocks = [
        say(
            "Copies of queries stand in the pool. AUC: share of other rows that have a lower value for the "
            "query than its copy; first and in ten: copies with the highest value, and among the ten highest."
        ),
        table(
            found, "method", "AUC:loss", "lower:loss", "upper:loss", "first:rate", "in ten:rate",
            "mean rank:score", "copies:int",
        ),
    ]  # fmt: skip
    return [section]


def _models(r: Reader) -> list[Section]:
    found = r.ask(queries.MODELS)
    if not found.rows:
        return []
    section = Section("models", "Models")
    columns = ("kind", "models:int", "trainings:int", "rows:int", "mean loss:loss", "spread:score")
    section.blocks = [table(found, *columns)]
    return [section]
