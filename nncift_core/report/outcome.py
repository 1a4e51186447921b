"""The sections that tell the outcome: what was valued, what it brought, what was chosen."""

from __future__ import annotations

from nncift_core.errors import UserError
from nncift_core.report import plots, queries
from nncift_core.report.blocks import (
    Code,
    Items,
    Plot,
    Section,
    Sentence,
    Title,
    mood,
    say,
    table,
    value,
)
from nncift_core.report.queries import Data, Reader
from nncift_core.report.trust import all_exact, verdict_lines
from nncift_core.report.trust_queries import PARTS, VERDICT


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
        Items((*_against_random(r), *_estimates(r), _gains(found, facts))),
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
    names = ("random, as many rows", "random, as many tokens")
    rivals = [first.where("rival", name) for name in (*names, *(f"{name}, in context" for name in names))]
    return [_against(rival) for rival in rivals if rival.rows] or [_against(found)]


def _against(found: Data) -> Sentence:
    """The first row of `found` as a line."""
    interval = (
        say(" ({} to {} at 90 %)", value(found, "lower", "gain"), value(found, "upper", "gain"))
        if found.first["lower"] is not None
        else say("")
    )
    how = "With examples out of" if found.first["rival"].endswith(", in context") else "Trained on"
    line = say(
        how + " the selected rows, the model reaches a held-out {} of {}; on “{}”, {}. Gain {}",
        value(found, "measure"), value(found, "value", "loss"), value(found, "rival"),
        value(found, "against_value", "loss"), value(found, "gain", "gain"),
    )  # fmt: skip
    verdict = value(found, "verdict")
    return Sentence((*line.parts, *interval.parts, "."), mood(found.first["verdict"]), verdict)


def _estimates(r: Reader) -> list[Sentence]:
    """The verdict on the estimates; what fills their place where they are refused."""
    told = verdict_lines(r)
    if told:
        return told if r.ask(VERDICT).first["level"] == "refused" else told[:1]
    found = r.ask(PARTS)
    if not found.rows:
        return [all_exact(r)]
    line = say(
        "Estimates by {}, on values that no fit has seen ({}):",
        value(found, "predictor"), value(found, "quadrant"),
    )  # fmt: skip
    return [Sentence(line.parts, mood(found.first["verdict"]), value(found, "verdict"))]


def _gains(found: Data, facts: Data) -> Sentence:
    positive = facts.where("fact", "positive_gain")
    return say(
        "{} of {} picks had a positive gain.",
        value(positive, "value", "int"), value(found, "chosen", "int"),
        mood="good" if positive.first.get("value") == found.first["chosen"] else "open",
    )  # fmt: skip


def _objective(facts: Data) -> list[Sentence]:
    """What the rule's objective came to, and whether that was found exactly; older runs did not say."""
    reached, scaled = facts.where("fact", "objective"), facts.where("fact", "scaled_from")
    if not reached.rows:
        return []
    lines = [say("The rule’s objective is {} for these rows.", value(reached, "value", "score"))]
    if scaled.rows:
        lines.append(
            say(
                "For this rule influence was scaled to 0..1, from its extremes {}: a gain above 0 does not "
                "say that a row helps.",
                value(scaled, "text"),
            )
        )
    for fact in ("refresh_told", "selection_note", "scores_note", "count_note"):
        note = facts.where("fact", fact)
        if note.rows and note.first["text"]:
            lines.append(say("Note: {}.", value(note, "text", "long")))
    return lines


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
        *_objective(facts),
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
