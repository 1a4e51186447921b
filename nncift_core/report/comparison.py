"""The section on models trained on the subset and on its rivals."""

from __future__ import annotations

from nncift_core.report import plots, queries
from nncift_core.report.blocks import Plot, Pre, Section, Sentence, Table, Title, say, table, value
from nncift_core.report.queries import Reader

_ADD_FINETUNE = """[target]
test = "test"    # rows to evaluate on: another split of target.source, or files

[finetune]
"""


def comparison(r: Reader) -> Section:
    """The models trained on the subset and on its rivals, on rows held out."""
    section = Section("comparison", "Comparison with random rows")
    found = r.ask(queries.COMPARISON)
    if not found.rows and r.ask(queries.EVALUATION).rows:
        section.blocks = [
            say("No rival was asked for: name some in evaluation.subsets to compare with random rows."),
            _evaluated(r),
        ]
        return section
    if not found.rows:
        section.blocks += _how_to_compare(r)
        return section
    section.blocks = [
        say(
            "One model per subset and seed was fine-tuned and asked {} held-out rows. Loss is in nats a "
            "response token: lower is better. ROUGE-1 and ROUGE-L tell how much of the reference the "
            "model’s own answer shares: higher is better.",
            value(found, "n_rows", "int"),
        ),
        _evaluated(r),
        say(
            "Gain is by how much the selected rows do better (positive: better, for loss and ROUGE alike). "
            "Its 90 % interval holds the doubt from held-out rows and from seeds; there is a verdict only "
            "when it leaves none."
        ),
        table(
            found,
            "against", "measure", "selected:loss", "rival:loss", "gain:gain", "from:gain", "to:gain",
            "seeds:int", "rows:int", "verdict:verdict",
        ),
        _seeds(r),
    ]  # fmt: skip
    by_task = r.ask(queries.COMPARISON_BY_TASK)
    if by_task.rows:
        columns = (
            "task",
            "against",
            "measure",
            "gain:gain",
            "from:gain",
            "to:gain",
            "rows:int",
            "verdict:verdict",
        )
        section.blocks += [Title("By task"), table(by_task, *columns)]
    return _with_answers(r, section)


def _evaluated(r: Reader) -> Table:
    sizes, scores = ("seeds:int", "rows:int", "tokens:int"), ("loss:loss", "ROUGE-1:loss", "ROUGE-L:loss")
    return table(r.ask(queries.EVALUATION), "trained on", *sizes, *scores)


def _how_to_compare(r: Reader) -> list[Sentence | Pre]:
    trained = r.ask(queries.FACTS).where("fact", "adapter")
    if trained.rows:
        return [
            say(
                "A model was fine-tuned on the subset (its adapter lies in {}), but there are no held-out "
                "rows to compare it on. Name some in the config, and run again:",
                value(trained, "text"),
            ),
            Pre(_ADD_FINETUNE.split("\n\n")[0]),
        ]
    return [
        say(
            "No model was trained in this run, so nothing is known yet of what the subset is worth. To "
            "fine-tune on it and compare with random rows, add this to the config and run again; all "
            "values are reused:"
        ),
        Pre(_ADD_FINETUNE.rstrip()),
    ]


def _seeds(r: Reader) -> Plot:
    found = r.ask(queries.BY_SEED)
    groups: dict[str, list[float]] = {}
    base = None
    for row in found.rows:
        if row["seed"] is None:
            base = (row["trained_on"], row["value"])
        else:
            groups.setdefault(row["trained_on"], []).append(row["value"])
    label = str(found.first["measure"])
    better = "lower" if label == "loss" else "higher"
    columns = ("trained on", "seed:int", "measure", "value:loss", "from:loss", "to:loss")
    return Plot(
        plots.dots(groups, f"held-out {label} ({better} is better)", base),
        f"Held-out {label} of every trained model by subset, with the base model as a line",
        "A dot is one seed, the tick their mean. Subsets differ when their dots keep apart.",
        table(found, *columns, folded="numbers and query"),
    )


def _with_answers(r: Reader, section: Section) -> Section:
    """Three held-out rows with what each model answers, when answers were generated."""
    rival = r.ask(queries.RIVAL).first.get("rival")
    if rival is None:
        return section
    section.blocks += [
        Title("What the models answer"),
        say(
            "Three held-out rows: where the selected rows’ model is furthest ahead of its rival by ROUGE-1 "
            "(mean over seeds), in the middle, and furthest behind. The answers are those of the first "
            "seed."
        ),
        table(
            r.ask(queries.answers(rival)),
            "case", "ahead by:gain", "prompt:long", "reference:long", "selected rows:long",
            f"{_RIVAL_NAMES[rival]}:long", "base model:long", cards=True,
        ),
    ]  # fmt: skip
    return section


_RIVAL_NAMES = {
    "random": "random rows",
    "random-tokens": "random, as many tokens",
    "longest": "longest responses",
    "base": "base model, once more",
}
