"""`nncift explain`: why a row was chosen, or why not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_options import WorkspaceOption
from flows.cli_output import JsonOption, print_json
from nncift_core.store.workspace import DEFAULT, Workspace


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain")(explain)


def explain(
    example: Annotated[
        str,
        typer.Argument(
            metavar="EXAMPLE_ID",
            help="An example_id, your own id of the row (source_id), or row:N, its row_number (from 0).",
        ),
    ],
    workspace: WorkspaceOption = Path(DEFAULT),
    run: Annotated[str | None, typer.Option("--run", help="A run id; default: the latest run.")] = None,
    json_: JsonOption = False,
) -> None:
    """Say what a row is worth, why it was chosen or why not, and where its values come from."""
    from nncift_core.pipeline.explain import explain as explained

    told = explained(Workspace.open(workspace), example, run)
    if json_:
        print_json(told)
        return
    from flows.explain_summary import show

    show(told)
