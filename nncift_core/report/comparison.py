"""The section on models trained on the subset and on its rivals."""

from __future__ import annotations

from nncift_core.report import plots, queries
from nncift_core.report.blocks import Plot, Pre, Section, Sentence, Table, Title, say, table, value
from nncift_core.report.queries import Data, Reader

_ADD_FINETUNE = """[target]
test = "test"    # rows to evaluate on: another split of target.source, or files

[finetune]
"""


def comparison(r: Reader) -> Section:
    """The models trained on the subset and on its rivals, on rows held out."""
    section = Section("comparison", "Comparison with random rows")
    found = r.ask(queries.COMPARISON)
    if not found.rows and r.ask(queries.MEASURED).rows:
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
            "One model per subset and seed was asked {} held-out rows.", value(found, "n_rows", "int")
        ),
        *_meanings(r, found),
        _evaluated(r),
        say(
            "Gain is by how much the selected rows do better (positive: better, whichever way a metric "
            "points). "
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


_MEANINGS = {
    "loss": "Loss is in nats a response token: lower is better.",
    "rouge1": "ROUGE-1 and ROUGE-L tell how much of the reference the model’s own answer shares: higher is "
    "better.",
    "similarity": "Similarity is the cosine of the embeddings of answer and reference: higher is better.",
    "exact": "Exact match is the share of answers that are the reference, apart from case, white space and "
    "final punctuation.",
    "choice": "Multiple choice is the share of questions whose right option is the most likely one.",
    "judge": "Judge is the grade that a language model gave the answer: higher is better.",
}


_IN_CONTEXT = (
    "“In context”: the student as it is, with the most similar rows of the subset before each question; the "
    "others were fine-tuned."
)


def _meanings(r: Reader, found: Data) -> list[Sentence]:
    """What the metrics that were measured say, and what the modes are."""
    measured = [row["metric"] for row in r.ask(queries.MEASURED).rows]
    texts = [text for metric, text in _MEANINGS.items() if metric in measured]
    shown = any(str(row["rival"]).endswith(", in context") for row in found.rows)
    return [say(" ".join(texts + ([_IN_CONTEXT] if shown else [])))]


def _evaluated(r: Reader) -> Table:
    measured = [row["metric"] for row in r.ask(queries.MEASURED).rows]
    sizes = ("seeds:int", "rows:int", "tokens:int")
    scores = [f"{queries.METRIC_NAMES[metric]}:loss" for metric in measured]
    return table(r.ask(queries.evaluation(measured)), "trained on", *sizes, *scores)


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
