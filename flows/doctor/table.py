"""The checks as a table for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.doctor.core import Check
from nncift_core.text import visible

WIDTH = 80
_STYLES = {"ok": "green", "missing": "yellow", "problem": "red"}


def show(checks: list[Check]) -> None:
    """Print the checks as a table of at most 80 columns, and below it how to mend what is not ok."""
    console = Console(highlight=False)
    table = Table()
    table.add_column("check", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("found", overflow="fold")
    for c in checks:
        optional = "" if c.status == "ok" or c.needed else ", optional"
        status = Text(f"{c.status}{optional}", style=_STYLES[c.status])
        table.add_row(Text(visible(c.name)), status, Text(visible(c.found)))
    console.print(table, width=min(WIDTH, console.width))
    for c in (c for c in checks if c.status != "ok"):
        console.print(Text(visible(f"{c.name}:\n    {c.mend}")), soft_wrap=True)
    lacking = sum(c.needed and c.status != "ok" for c in checks)
    console.print(Text(f"{lacking} needed not ok" if lacking else "all that is needed is there"))
