"""Sections filled into the template of a page, which carries its style and its plots in itself."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from nncift_core.report.blocks import Section
from nncift_core.report.queries import Data
from nncift_core.store.workspace import Workspace
from nncift_core.text import one_line

if TYPE_CHECKING:
    from jinja2 import Template

_HERE = Path(__file__).parent


def fill(
    ws: Workspace,
    run_id: str,
    sections: Sequence[Section],
    *,
    title: str,
    heading: str,
    contents: bool = True,
) -> str:
    """The sections of a run as one HTML file; title: of the window; contents: links to the sections.

    It carries no time of its own making.
    """
    folder = one_line(ws.root.name, 80)

    def command(data: Data) -> str:
        return f'nncift query "{data.sql}" --run {data.run or run_id} --workspace {shlex.quote(folder)}'

    css = (_HERE / "report.css").read_text(encoding="utf-8")
    return _template().render(
        sections=sections, run_id=run_id, command=command, css=css, title=title, heading=heading,
        contents=contents,
    )  # fmt: skip


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return env.get_template("report.html.j2")
