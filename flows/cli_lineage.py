"""`nncift lineage`: what an artifact was made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli_options import WorkspaceOption
from flows.cli_output import JsonOption, print_json
from nncift_core.errors import UserError
from nncift_core.store.workspace import DEFAULT, Workspace
from nncift_core.text import one_line

if TYPE_CHECKING:
    from nncift_core.pipeline.lineage import Folded, Group
    from nncift_core.store.lineage import Node

WIDTH = 80


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("lineage")(lineage)


def lineage(
    artifact: Annotated[
        str,
        typer.Argument(
            help="A file, the beginning of its name or key, a run id, or: subset, estimator, report, adapter."
        ),
    ],
    workspace: WorkspaceOption = Path(DEFAULT),
    run: Annotated[
        str | None, typer.Option("--run", help="Whose subset, estimator, ...; default: the latest run's.")
    ] = None,
    children: Annotated[bool, typer.Option("--children", help="Also what was made from it.")] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a mermaid graph.")] = False,
    json_: JsonOption = False,
) -> None:
    """Say which data, models, code, parameters and files made an artifact."""
    from nncift_core.pipeline.lineage import fold
    from nncift_core.pipeline.lineage import mermaid as drawn
    from nncift_core.pipeline.provenance import explain
    from nncift_core.store.artifacts import find_artifact
    from nncift_core.store.lineage import Lineage

    if mermaid and json_:
        raise UserError("--json and --mermaid exclude one another", mend="Give one of them.")
    known = Lineage(Workspace.open(workspace))
    found = find_artifact(known, artifact, run)
    made = known.children(found) if children else []
    if json_:
        told = explain(known, found)
        print_json({**told, "children": [n.artifact for n in made]} if children else told)
        return
    folded = fold(known.ancestors(found))
    if mermaid:
        print(drawn(folded))
        return
    _show(explain(known, found), folded, made)


def _show(told: dict[str, Any], folded: Folded, children: list[Node]) -> None:
    """Who made it, the data behind it, and the tree, in at most 80 columns."""
    from flows.terminal import console, heading

    out = console()
    heading(out, one_line(told["artifact"], 200))
    for name, text in (*_made_by(told["made_by"]), *_data(told["datasets"])):
        out.print(f"  {name:<11}{text}", soft_wrap=True, markup=False)
    heading(out, "Made from")
    for line in _tree(folded):
        out.print(line, soft_wrap=True, markup=False)
    if children:
        heading(out, "Made from it")
        for n in children[:20]:
            out.print(f"  {n.kind} {one_line(n.artifact, 200)}", soft_wrap=True, markup=False)
        if len(children) > 20:
            out.print(f"  20 of {len(children):,} shown; --json lists all")


def _made_by(m: dict[str, Any]) -> list[tuple[str, str]]:
    lines = []
    if m["note"]:
        lines.append(("made by", m["note"]))
    elif m["run"]:
        lines.append(("made by", f"run {m['run']}, attempt {m['attempt']}, started {_time(m['started_at'])}"))
    if m["command"]:
        lines.append(("command", one_line(m["command"], 300)))
    if m["function"]:
        lines.append(("function", f"{one_line(str(m['function']), 40)}, seed {m['seed']}"))
    for role, said in (m["models"] or {}).items():
        text = ", ".join(str(v) for v in said.values())
        lines.append(("model", f"{role}: {one_line(text, 200)}"))
    if m["versions"]:
        v = m["versions"]
        lines.append(("code", f"nncift {v.get('nncift', '?')}, git {one_line(str(v.get('git', '?')), 60)}"))
    return lines


def _data(datasets: list[dict[str, Any]]) -> list[tuple[str, str]]:
    lines = []
    for d in datasets:
        sources = ", ".join(s[:8] for s in d["sources"])
        name = one_line(str(d["name"]), 40)
        text = f"{d['role']} {name}: {d['rows']:,} rows, version {str(d['version'])[:8]}"
        lines.append(("data", f"{text}, source {sources}" if sources else text))
    return lines


def _tree(folded: Folded) -> list[str]:
    """One line per group, indented by depth; what was shown before is only named."""
    lines = []
    for depth, numbers, before in folded.walk():
        indent = "  " * min(depth, 12) + ("- " if depth else "")
        names = [f"{folded.groups[n].first.kind} {folded.groups[n].name}" for n in numbers]
        if before:
            lines.append(one_line(f"{indent}above: {', '.join(names)}", WIDTH))
            continue
        rest = _about(folded.groups[numbers[0]])
        head = one_line(indent + names[0], WIDTH)
        lines.append(head + rest if len(head) + len(rest) <= WIDTH else head)
    return lines


def _about(g: Group) -> str:
    """What still fits behind a name."""
    if not g.stored:
        return ", no longer stored"
    if g.first.outside or not g.rows:
        return ""
    return f", {g.rows:,} rows, {g.size / 1e6:,.2f} MB"


def _time(iso: str | None) -> str:
    return "at an unknown time" if not iso else iso[:19].replace("T", " ")
