"""The page as a whole: sections in order, filled into the template."""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from nncift_core.report import comparison, outcome, record, trust, values
from nncift_core.report.queries import Data, Reader
from nncift_core.store.workspace import Workspace
from nncift_core.text import one_line

if TYPE_CHECKING:
    from jinja2 import Template

HERE = Path(__file__).parent
SECTIONS = (
    outcome.head,
    comparison.comparison,
    trust.trust,
    outcome.subset,
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
    sections = [make(reader) for make in SECTIONS]
    folder = one_line(ws.root.name, 80)

    def command(data: Data) -> str:
        return f'nncift query "{data.sql}" --run {data.run or run_id} --workspace {shlex.quote(folder)}'

    css = (HERE / "report.css").read_text(encoding="utf-8")
    return _template().render(sections=sections, run_id=run_id, command=command, css=css)


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return env.get_template("report.html.j2")
