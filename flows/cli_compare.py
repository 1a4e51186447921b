"""`nncift compare`: ways to value a pool beside each other, by what their subsets train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_options import ConfigArgument, QuietOption, WorkspaceOption
from flows.cli_output import JsonOption, print_json
from flows.cli_running import called
from nncift_core.store.workspace import DEFAULT


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(compare)


def compare(
    config: ConfigArgument,
    workspace: WorkspaceOption = Path(DEFAULT),
    plan: Annotated[
        bool, typer.Option("--plan", help="Read and check as a run would, count the work; start nothing.")
    ] = False,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train on the subsets of several methods and their rivals, and compare the models on held-out rows."""
    if plan:
        _plan(config, workspace, json_)
        return

    def load() -> Any:
        from flows.compare import compare_methods

        return compare_methods

    result = called(load, config, workspace, quiet)
    if json_:
        print_json(result.model_dump(mode="json"))
        return
    from flows.compare_summary import show_compare

    show_compare(result)


def _plan(config: Path, workspace: Path, json_: bool) -> None:
    from nncift_core.config import load_config
    from nncift_core.pipeline.compare import overview

    found = overview(load_config(config), workspace)
    if json_:
        print_json(found)
        return
    for name, value in found.items():
        shown = f"{value:>14,}" if isinstance(value, int) else f"{'; '.join(value)}"
        print(f"{name.replace('_', ' '):<18}{shown}")
