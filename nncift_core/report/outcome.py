"""The sections that tell the outcome: what was valued, what it brought, what was chosen."""

from __future__ import annotations

from nncift_core.errors import UserError
from nncift_core.report import plots, queries
from nncift_core.report.blocks import (
    Code,
    Items,
    Plot,
    Pre,
    Section,
    Sentence,
    Table,
    Title,
    mood,
    say,
    table,
    value,
)
from nncift_core.report.queries import Data, Reader

_ADD_FINETUNE = """[target]
test = "test"    # rows to evaluate on: another split of target.source, or files

[finetune]
"""


def head(r: Reader) -> Section:
    """What was valued, and the verdicts in a few lines; UserError when the run has no result."""
    found, attempt = r.ask(queries.HEAD), r.ask(queries.ATTEMPT)
    if not found.first["chosen"]:
        raise UserError(f"run {r.run_id} has no result yet", mend="Let it finish: run its config again.")
    facts = r.ask(queries.FACTS)
    if facts.where("fact", "kind").first.get("text") == "pointwise":
        target = say("valued with {}, each by itself", value(found, "function"))
    elif found.first["target_rows"]:
        rows = value(found, "target_rows", "int")
        target = say("valued with {} against {} target rows", value(found, "function"), rows)
    else:
        target = say("valued with {} against the pool itself", value(found, "function"))
    intro = say(
        "Run {}, started {}: {} pool rows were ",
        Code(r.run_id), value(attempt, "started"), value(found, "pool_rows", "int"),
    )  # fmt: skip
    chosen = say(
        "; {} were chosen by {}.",
        value(found, "chosen", "int"), value(facts.where("fact", "rule"), "text"),
    )  # fmt: skip
    section = Section("outcome", "Outcome")
    section.blocks = [
        Sentence((*intro.parts, *target.parts, *chosen.parts)),
        Items((*_against_random(r), _estimates(r), _gains(found, facts))),
        table(
            r.ask(queries.DATASETS),
            "role",
            "data set",
            "rows:int",
            "sources:int",
            "tasks:int",
            folded="data sets read",
        ),
    ]
    return section


def _against_random(r: Reader) -> list[Sentence]:
    """By loss, where it was measured: against as many random rows and, the harder rival, as many tokens."""
    found = r.ask(queries.COMPARISON)
    if not found.rows:
        return [say("Comparison with random rows: none was made in this run.", mood="open")]
    first = found.where("measure", found.first["measure"])
    rivals = [first.where("rival", name) for name in ("random, as many rows", "random, as many tokens")]
    return [_against(rival) for rival in rivals if rival.rows] or [_against(found)]


def _against(found: Data) -> Sentence:
    """The first row of `found` as a line."""
    interval = (
        say(" ({} to {} at 90 %)", value(found, "lower", "gain"), value(found, "upper", "gain"))
        if found.first["lower"] is not None
        else say("")
    )
    line = say(
        "Trained on the selected rows, the model reaches a held-out {} of {}; on “{}”, {}. Gain {}",
        value(found, "measure"), value(found, "value", "loss"), value(found, "rival"),
        value(found, "against_value", "loss"), value(found, "gain", "gain"),
    )  # fmt: skip
    verdict = value(found, "verdict")
    return Sentence((*line.parts, *interval.parts, "."), mood(found.first["verdict"]), verdict)


def _estimates(r: Reader) -> Sentence:
    found = r.ask(queries.VERDICTS)
    if not found.rows:
        return say("Every influence value is exact; nothing was estimated.", mood="good")
    line = say(
        "Estimates by {}, on values that no fit has seen ({}):",
        value(found, "predictor"), value(found, "quadrant"),
    )  # fmt: skip
    return Sentence(line.parts, mood(found.first["verdict"]), value(found, "verdict"))


def _gains(found: Data, facts: Data) -> Sentence:
    positive = facts.where("fact", "positive_gain")
    return say(
        "{} of {} picks had a positive gain.",
        value(positive, "value", "int"), value(found, "chosen", "int"),
        mood="good" if positive.first.get("value") == found.first["chosen"] else "open",
    )  # fmt: skip


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


def subset(r: Reader) -> Section:
    """Where the chosen rows come from, what each added, and the first of them."""
    section = Section("subset", "The subset")
    facts = r.ask(queries.FACTS)
    section.blocks = [
        say(
            "{} picks had a positive gain; in {} steps another row would have done as well (a tie). Gain "
            "is what a pick adds to the rule’s objective, given those before it (under top-k its score); "
            "score is its mean influence on its best target task, or its own value where the function "
            "gives one per row.",
            value(facts.where("fact", "positive_gain"), "value", "int"),
            value(facts.where("fact", "tied_steps"), "value", "int"),
        ),
        *_groups(r, "source", queries.BY_SOURCE),
    ]
    if r.ask(queries.TASKS_NAMED).first["named"]:
        section.blocks += _groups(r, "task", queries.BY_TASK)
    else:
        section.blocks.append(say("The pool’s rows name no task, so there is no table by task."))
    section.blocks += [_gain_by_rank(r), Title("The first picks")]
    picks = ("rank:int", "score:score", "gain:score", "source", "prompt:long", "response:long")
    section.blocks.append(table(r.ask(queries.PICKS), *picks, cards=True))
    return section


def _groups(r: Reader, column: str, sql: str) -> list[Title | Sentence | Plot]:
    found, total = r.ask(queries.TOP_GROUPS.format(sql)), r.ask(queries.count(sql))
    columns = (
        column, "in pool:int", "chosen:int", "chosen of them:share", "share of pool:share",
        "share of subset:share", "best rank:int",
    )  # fmt: skip
    shares = {
        "of the pool": [row["share_of_pool"] for row in found.rows],
        "of the subset": [row["share_of_subset"] for row in found.rows],
    }
    top = found.rows[:6]
    image = plots.bars(
        [row[column] for row in top], {k: v[: len(top)] for k, v in shares.items()}, "share (%)", percent=True
    )
    return [
        Title(f"By {column}"),
        *(
            [say("{} in all; the table names the most chosen.", value(total, "n", "int"))]
            if total.first["n"] > len(found.rows)
            else []
        ),
        Plot(
            image,
            f"Share of the pool and of the subset by {column}",
            f"The most chosen first. A {column} whose blue bar is the longer one was preferred.",
            table(found, *columns),
        ),
    ]


def _gain_by_rank(r: Reader) -> Plot:
    found = r.ask(queries.GAINS)
    names = ("first_rank", "last_rank", "highest_gain", "lowest_gain")
    series = [[float(row[n]) for row in found.rows] for n in names]
    return Plot(
        plots.steps(*series),
        "Gain of the picks by rank, from the first pick to the last",
        "Where the curve is flat and low, a smaller subset would do nearly as well.",
        table(
            found,
            "first rank:int",
            "last rank:int",
            "highest gain:score",
            "lowest gain:score",
            folded="numbers and query",
        ),
    )
