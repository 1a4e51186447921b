"""`nncift gc`: free what no kept run needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli_options import WorkspaceOption
from flows.cli_output import JsonOption, print_json
from nncift_core.store.workspace import DEFAULT, Workspace

if TYPE_CHECKING:
    from nncift_core.store.collection import Plan


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("gc")(gc)


def gc(
    workspace: WorkspaceOption = Path(DEFAULT),
    keep: Annotated[
        int,
        typer.Option("--keep", min=1, help="How many results of every job stay, the newest."),
    ] = 3,
    delete: Annotated[
        bool, typer.Option("--delete", help="Free it; without this it is only listed.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """List what no kept run needs, rows removed from the data among it; with --delete, free it."""
    from nncift_core.store.collection import collect, plan_collection
    from nncift_core.store.use import alone

    ws = Workspace.open(workspace)
    with alone(ws):
        plan = plan_collection(ws, keep)
        freed = collect(ws, plan) if delete else 0
    told = _told(plan, keep, freed if delete else None)
    if json_:
        print_json({"workspace": ws.address, **told})
    else:
        _show(plan, told)


def _told(plan: Plan, keep: int, freed: int | None) -> dict[str, Any]:
    groups = plan.groups()
    published = [(p, kind) for kind in ("results", "sweeps") for p in getattr(plan.kept, kind)]
    return {
        "deleted": freed is not None,
        "keep": keep,
        "kept": [
            {"run_id": p.run_id, "kind": kind[:-1], "published_at": p.published_at} for p, kind in published
        ],
        "unfinished": list(plan.kept.unfinished),
        "replaced": list(plan.unpublished),
        "groups": groups,
        "files": sum(g["files"] for g in groups),
        "bytes": sum(g["bytes"] for g in groups) if freed is None else freed,
        "texts_staying": plan.texts_staying,
        "damaged": list(plan.damaged),
    }


def _show(plan: Plan, told: dict[str, Any]) -> None:
    from rich.text import Text

    from flows.terminal import columns, console, heading

    out = console()
    if not told["groups"] and not told["replaced"]:
        out.print("nothing to free")
    else:
        heading(out, "Freed" if told["deleted"] else "Would go")
        table = columns(("what", "why", "files", "MB"), left=("what", "why"))
        for g in told["groups"]:
            table.add_row(Text(g["kind"]), Text(g["why"]), f"{g['files']:,}", f"{g['bytes'] / 1e6:,.2f}")
        out.print(table)
        verb = "freed" if told["deleted"] else "would be freed"
        out.print(f"{told['bytes'] / 1e6:,.2f} MB in {told['files']:,} files {verb}")
    for line in _notes(plan, told):
        out.print(Text(line), soft_wrap=True)


def _notes(plan: Plan, told: dict[str, Any]) -> list[str]:
    """What a person should know beside the sizes."""
    kept = len(told["kept"])
    lines = [
        f"{kept:,} result{'s' if kept != 1 else ''} kept; {len(told['replaced']):,} replaced by newer ones"
    ]
    if told["unfinished"]:
        lines.append(f"kept for when they go on: {', '.join(told['unfinished'])} (broken off, nothing newer)")
    if told["texts_staying"]:
        lines.append(f"{told['texts_staying']:,} removed rows' texts stay in blocks with living rows")
    if told["damaged"]:
        shown = ", ".join(told["damaged"][:3])
        lines.append(f"{len(told['damaged']):,} damaged files are left for the next run to replace: {shown}")
    if not plan.empty and not told["deleted"]:
        lines.append("nothing is deleted yet: add --delete to free it")
    return lines
