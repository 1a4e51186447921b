"""What all answers in a terminal share: width, headings, tables, numbers, paths and commands to type."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from nncift_core.text import one_line

MAX_ROWS = 200
CELL = 80


def console() -> Console:
    """Rich output as wide as the terminal; 120 columns where there is none."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=120)


def heading(console: Console, text: str) -> None:
    """A bold line."""
    console.print(Text(text, style="bold"), soft_wrap=True)


def number(value: Any, digits: int = 3) -> str:
    """`value` with so many digits; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def columns(names: Iterable[str], left: Container[str] = (), *, wrap: bool = True) -> Table:
    """An empty table with these columns: those in `left` start at the left, numbers end at the right."""
    table = Table()
    for name in names:
        justify: JustifyMethod = "left" if name in left else "right"
        table.add_column(Text(name), justify=justify, no_wrap=not wrap)
    return table


def command() -> str:
    """What to type to call this program again: its name when the shell finds it, else its path."""
    if shutil.which("nncift"):
        return "nncift"
    return shlex.quote(near(str(Path(sys.executable).with_name("nncift"))))


def near(path: str) -> str:
    """`path` from the current directory when it lies below it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def show_rows(table: pa.Table) -> None:
    """A result table; at most MAX_ROWS rows, and it says so when there are more."""
    out = console()
    shown = Table()
    for name in table.column_names:
        shown.add_column(Text(one_line(name, CELL)), overflow="fold")
    for row in table.slice(0, MAX_ROWS).to_pylist():
        shown.add_row(*(Text(_cell(row[name])) for name in table.column_names))
    out.print(shown)
    if len(table) > MAX_ROWS:
        out.print(f"{MAX_ROWS} of {len(table):,} rows shown; --json prints all")


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return one_line(text, CELL)
