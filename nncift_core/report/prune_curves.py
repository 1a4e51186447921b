"""The sections on pruned subsets: what pruning does to accuracy, and who pays for it."""

from __future__ import annotations

from typing import Any

from nncift_core.report import prune_queries as queries
from nncift_core.report.blocks import Plot, Section, Sentence, Table, Title, say, table, value
from nncift_core.report.prune_plots import Curve, dropped
from nncift_core.report.queries import Data, Reader

Blocks = list[Any]
_WHICH = ("dropped:share", "rows by")
_CHANGE = ("change:gain", "±:loss")
_AGAINST_RANDOM = ("gain over random:gain", "from:gain", "to:gain", "against random:verdict")
ENDS = {"easy": "easy end", "hard": "hard end"}
WHO = {
    "tail_accuracy": "rarest classes",
    "worst_class_change": "worst class, change",
    "worst_group_change": "worst group, change",
}
CHANCE = ("softmax", "linear")


def curves(r: Reader) -> Section:
    """Accuracy against the share dropped, per dropped end; cut-offs and samplings by chance apart."""
    section = Section("curves", "Pruning curves")
    found = r.ask(queries.curve("curve"))
    if not found.rows:
        section.blocks = [say("No pruning curve was studied in this run.")]
        return section
    section.blocks = [
        say(
            "A line that stays near the dashed one can be pruned that far; it earns its keep only where it "
            "is above random rows. Dropping the easy end keeps hard rows, dropping the hard end easy ones."
        ),
        _tally(r, "curve"),
        *accuracy_plot(r, "curve"),
        Title("The most accurate subset of each share"),
        say(
            "Beside random and stratified rows of the same share. It was picked after the fact, so that its "
            "accuracy flatters a little; the interval of its gain (at 90 %) says how far to trust it."
        ),
        best_table(r, "curve"),
    ]
    return section


def _tally(r: Reader, study: str) -> Sentence:
    found = r.ask(queries.verdicts(study))
    return say(
        "Of {} subsets by scores, {} beat random rows of their share beyond the spread, and {} lose to them.",
        value(found, "subsets", "int"), value(found, "better", "int"), value(found, "worse", "int"),
    )  # fmt: skip


def best_table(r: Reader, study: str, noise: str = "", rate: float | None = None) -> Table:
    """The most accurate subset of each share of a study, beside what was not scored."""
    found, left = r.ask(queries.best(study, noise, rate)), ("planted left:score",) if noise else ()
    return table(found, *_WHICH, "accuracy:loss", *_CHANGE, *_AGAINST_RANDOM, *left)


def accuracy_plot(r: Reader, study: str, noise: str = "", rate: float | None = None) -> Blocks:
    """The curves of a study with every number beneath; only the table where there is nothing to draw."""
    found, left = r.ask(queries.curve(study, noise, rate)), ("planted left:score",) if noise else ()
    numbers = table(
        found, *_WHICH, "seeds:int", "rows:score", "accuracy:loss", "± seeds:loss", *_CHANGE,
        *_AGAINST_RANDOM, *left, folded="numbers and query",
    )  # fmt: skip
    drawn = r.ask(queries.lines(study, noise, rate))
    rows = [
        ("accuracy", panels)
        for words, samplings in (("cut-off", ("", "cut")), ("by chance", CHANCE))
        if (panels := panels_of(drawn, "accuracy", samplings, f", {words}", "spread"))
    ]
    if not rows:
        return [numbers]
    full = next((row["accuracy"] for row in drawn.rows if row["line"] == "all rows"), None)
    image = dropped(rows, None if full is None else ("all rows", full), same_y=True)
    text = "Bands are one standard deviation over seeds. Accuracies and changes are shares of one."
    return [Plot(image, "Accuracy against the share of rows dropped, per dropped end", text, numbers)]


def panels_of(
    found: Data, column: str, samplings: tuple[str, ...], words: str, spread: str = ""
) -> dict[str, list[Curve]]:
    """A panel per dropped end with the lines under `samplings`; unscored rows stand in all of them.

    Values that are missing are left out, and so are panels without a scored line.
    """
    lines: dict[tuple[str, str, str], list[tuple[float, float, float | None]]] = {}
    for row in found.rows:
        if row["line"] != "all rows" and row[column] is not None:
            key = (row["line"], row["sampling"], row["pruned_end"])
            lines.setdefault(key, []).append((row["pruned"], row[column], row[spread] if spread else None))
    shared = [Curve(name, "", tuple(at)) for (name, _, end), at in lines.items() if not end]
    panels = {}
    for end, title in ENDS.items():
        own = [Curve(n, how, tuple(at)) for (n, how, e), at in lines.items() if e == end and how in samplings]
        if own:
            panels[title + words] = own + shared
    return panels


def harm(r: Reader) -> Section:
    """What pruning costs the rarest classes, the class and the group that are hit hardest."""
    section = Section("harm", "Who is harmed")
    studied = [s for s in ("curve", "imbalance") if r.ask(queries.curve(s)).rows]
    if not studied:
        section.blocks = [say("Neither a pruning curve nor class imbalance was studied in this run.")]
        return section
    section.blocks = [
        say(
            "Mean accuracy hides who pays. A subset whose worst class falls far, or whose rare classes lose "
            "more than the mean does, is not safe to use, however small its mean loss."
        ),
        say(
            "Relative error is the growth of the error rate as a share of that with all rows; efficiency "
            "is that divided by the share dropped: the lower, the cheaper the pruning."
        ),
    ]
    for study in studied:
        if len(studied) > 1:
            section.blocks.append(Title("On the pruning curve" if study == "curve" else "Class imbalance"))
        section.blocks += _harm_of(r, study)
    if "imbalance" not in studied:
        section.blocks.append(say("Class imbalance was not studied in this run."))
    return section


def _harm_of(r: Reader, study: str) -> Blocks:
    groups = bool(r.ask(queries.has_groups(study)).first["groups"])
    blocks: Blocks = [_tally(r, study), *accuracy_plot(r, study)] if study == "imbalance" else []
    drawn = r.ask(queries.lines(study))
    rows = [
        (label, panels)
        for column, label in WHO.items()
        if (panels := panels_of(drawn, column, ("", "cut", *CHANCE), ""))
    ]
    numbers = _harm_table(r.ask(queries.harm(study, groups)), groups, "numbers and query")
    alt = "Accuracy of the rarest classes, and what the worst class and group lose, by the share dropped"
    text = "Of the rarest classes the accuracy; of the class and the group hit hardest what they lose."
    blocks.append(Plot(dropped(rows, None, same_y=False), alt, text, numbers) if rows else numbers)
    by = "most accurate on rare classes" if study == "imbalance" else "most accurate"
    return [
        *blocks,
        say(f"Of each share, the subset that is {by}, beside random and stratified rows:"),
        _harm_table(r.ask(queries.harm_of_best(study, groups)), groups),
        *_losers(r, study, "class", queries.CLASSES_SHOWN),
        *(_losers(r, study, "group", queries.GROUPS_SHOWN) if groups else []),
    ]


def _harm_table(found: Data, groups: bool, folded: str = "") -> Table:
    means = ("accuracy:loss", "mean of classes:loss") if folded else ()
    group = ("worst group", "its change:gain") if groups else ()
    return table(
        found, *_WHICH, *means, "rare classes:loss", "their change:gain", "worst class", "its change:gain",
        *group, "relative error:gain", "efficiency:gain", folded=folded,
    )  # fmt: skip


def _losers(r: Reader, study: str, scope: str, shown: int) -> Blocks:
    found = r.ask(queries.harmed(study, scope, shown))
    if not found.rows:
        return []
    plural = {"class": "classes", "group": "groups"}[scope]
    text = f"The {plural} that lose most in those subsets, paired by seed; the gravest of each share:"
    columns = ("test rows:int", "all rows:loss", "subset:loss", *_CHANGE)
    return [say(text), table(found, *_WHICH, scope, *columns)]
