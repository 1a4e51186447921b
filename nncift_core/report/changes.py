"""What entered and left the subset since the run before; only of runs that noted it."""

from __future__ import annotations

from nncift_core.report.blocks import Code, Section, Title, say, table, value
from nncift_core.report.queries import Reader

COUNTS = """SELECT count(*) FILTER (change = 'entered') AS entered,
 count(*) FILTER (change = 'left') AS went, min(previous_run) AS previous_run, count(*) AS changed
 FROM subset_changes"""

# The numbers of a single row stand in brackets behind its reason.
BY_REASON = """SELECT change, split_part(why, ' (', 1) AS reason, count(*) AS rows FROM subset_changes
 GROUP BY 1, 2 ORDER BY change, rows DESC, reason"""

# Texts of removed rows are in the data of the run before.
FIRST = """SELECT change, rank_before, rank_after, score_before, score_after, why, prompt
 FROM (SELECT *, row_number() OVER (PARTITION BY change ORDER BY coalesce(rank_after, rank_before), train_id)
 AS place FROM subset_changes) LEFT JOIN examples ON example_id = train_id
 WHERE place <= 10 ORDER BY change, place"""

RULE = "SELECT text AS rule FROM facts WHERE fact = 'rule'"


def changes(r: Reader) -> Section | None:
    """Counts by reason, and the first rows by rank; None without changes that were noted."""
    found = r.ask(COUNTS)
    if not found.first.get("changed"):
        return None
    section = Section("changes", "What changed")
    section.blocks = [
        say(
            "Since run {}, {} rows entered the subset and {} left it.",
            value(found, "previous_run"), value(found, "entered", "int"), value(found, "went", "int"),
        ),
        table(r.ask(BY_REASON), "change", "reason", "rows:int"),
    ]  # fmt: skip
    rule = r.ask(RULE)
    if rule.first.get("rule") != "top-k":
        section.blocks.append(
            say(
                "The rule {} picks a row for what it adds beside those before it: rank is the order of "
                "picking, and a score that moved is a likely reason, no proof.",
                value(rule, "rule"),
            )
        )
    section.blocks += [
        Title("The first of them by rank"),
        say(
            "At most ten of each kind; {} has them all. A dash: not in that subset, or not in that pool. "
            "Texts of removed rows are in the data of the run before.",
            Code("subset_changes"),
        ),
        table(
            r.ask(FIRST),
            "change", "rank before:int", "rank now:int", "score before:score", "score now:score", "why",
            "prompt:long",
        ),
    ]  # fmt: skip
    return section
