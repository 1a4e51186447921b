"""The section on what a student learns of its training rows: the prompt is read, the response is learned."""

from __future__ import annotations

from nncift_core.report.blocks import Section, say, table, value
from nncift_core.report.queries import Reader

# Where tokens were left out between two that were noted, or before the first, three dots stand.
MASKS = """WITH noted AS (SELECT *, CASE WHEN position > coalesce(lag(position) OVER w, -1) + 1
 THEN '... ' || text ELSE text END AS shown FROM training_masks
 WINDOW w AS (PARTITION BY run_id, subset, seed, train_id ORDER BY position))
 SELECT subset, CAST(train_id AS VARCHAR) AS train_id, max(tokens) AS tokens,
 max(learned_tokens) AS learned_tokens,
 string_agg(shown, '' ORDER BY position) FILTER (NOT learned) AS before,
 string_agg(shown, '' ORDER BY position) FILTER (learned) AS learned,
 arg_min(text, position) FILTER (learned) AS first_learned,
 arg_max(text, position) FILTER (learned) AS last_learned
 FROM noted GROUP BY subset, seed, train_id ORDER BY subset <> 'selected', subset, train_id"""

MASKED = """SELECT count(DISTINCT (subset, train_id)) AS n FROM training_masks"""


def masks(r: Reader) -> Section | None:
    """The first training rows of each subset as the student read them, and which tokens it learned.

    None where nothing was trained.
    """
    found = r.ask(MASKS)
    if not found.rows:
        return None
    section = Section("masks", "What was learned of a row")
    section.blocks = [
        say(
            "The first {} training rows as the model read them. A loss was taken of the learned tokens "
            "alone; what stands before them was read. Three dots stand for tokens that are not shown. The "
            "last learned token ends the answer: without it, a model does not learn to stop.",
            value(r.ask(MASKED), "n", "int"),
        ),
        table(
            found,
            "subset", "row", "tokens:int", "learned tokens:int", "read, not learned:long", "learned:long",
            "first learned", "last learned", cards=True,
        ),
    ]  # fmt: skip
    return section
