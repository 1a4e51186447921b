"""`nncift refresh`: the recurring job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from flows.cli_options import ConfigArgument, QuietOption, WorkspaceOption
from flows.cli_output import JsonOption, print_json
from flows.cli_running import called
from nncift_core.store.workspace import DEFAULT


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(refresh)


def refresh(
    config: ConfigArgument,
    workspace: WorkspaceOption = Path(DEFAULT),
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring a result up to date with its data: value what is new, audit it, add labels where needed."""

    def load() -> Any:
        from flows.refresh import refresh_pool

        return refresh_pool

    result = called(load, config, workspace, quiet)
    if json_:
        print_json(result.model_dump(mode="json"))
        return
    from flows.refresh_summary import show_refresh
    from flows.summary import show

    show_refresh(result)
    show(result)
