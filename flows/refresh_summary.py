"""What a person sees in the terminal of a refresh, before the summary of the run itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from flows import terminal
from flows.diff_summary import show_changes
from nncift_core.store.query import rows
from nncift_core.store.workspace import Workspace

if TYPE_CHECKING:
    from flows.valuation import ValuationResult


def show_refresh(result: ValuationResult) -> None:
    """What was new, what audited it, what was decided and why, how the subset moved."""
    console, facts = terminal.console(), result.facts
    terminal.heading(console, f"Refresh: {facts['refresh_decision']}")
    came = [
        f"{facts[f'refresh_{what}_{name}']:,} {shown}"
        for name, one in (("rows", "pool rows"), ("targets", "target rows"))
        for what, shown in (("new", f"new {one}"), ("removed", f"{one} gone"))
    ]
    lines = [", ".join(came)]
    if facts["refresh_previous_run"] and facts["refresh_decision"] != "nothing new":
        lines[0] += f" since run {facts['refresh_previous_run']}"
    if facts["refresh_audit_pairs"]:
        lines.append(f"audit of what is new: {facts['refresh_audit_pairs']:,} exact pairs")
    lines.append(f"{facts['refresh_decision']}: {facts['refresh_reason']}")
    if facts["refresh_labels_added"]:
        lines.append(f"{facts['refresh_labels_added']:,} labels were added and the estimator was fitted anew")
    if "refresh_entered" in facts:
        moved = facts["refresh_entered"], facts["refresh_left"]
        lines.append(f"subset: {moved[0]:,} rows entered, {moved[1]:,} left")
    console.print(Text("\n".join([*lines, ""])), soft_wrap=True)
    if facts.get("refresh_entered") or facts.get("refresh_left"):
        found = rows(Workspace.open(result.workspace), "SELECT * FROM subset_changes", result.run_id)
        show_changes(console, found, limit=0)
        each = f"{terminal.command()} diff {facts['refresh_previous_run']} {result.run_id}"
        console.print(
            Text(f"row by row: {each} --workspace {terminal.near(result.workspace)}\n"), soft_wrap=True
        )
