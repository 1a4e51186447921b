"""The report of a run as a whole: its sections in order."""

from __future__ import annotations

from collections.abc import Callable

from nncift_core.report import changes, comparison, masks, outcome, record, trust, values
from nncift_core.report.blocks import Section
from nncift_core.report.queries import Reader
from nncift_core.report.template import fill
from nncift_core.store.workspace import Workspace

SECTIONS: tuple[Callable[[Reader], Section | None], ...] = (
    outcome.head,
    comparison.comparison,
    masks.masks,
    trust.trust,
    outcome.subset,
    changes.changes,
    values.influence,
    values.costs,
    record.warnings,
    record.other_runs,
    record.made,
)


def render(ws: Workspace, run_id: str) -> str:
    """The report of a run as one HTML file that needs nothing else, read from the run's views.

    The same for the same results: it carries no time of its own making. Raises UserError for a run
    that is not there or has no result.
    """
    reader = Reader(ws, run_id)
    made = [make(reader) for make in SECTIONS]
    sections = [section for section in made if section is not None]
    return fill(
        ws, run_id, sections, title=f"nncift report, run {run_id}", heading="Which rows are worth training on"
    )
