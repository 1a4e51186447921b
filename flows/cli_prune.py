"""`nncift prune`: score, prune and stress-test labelled classification data."""

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
    app.command("prune")(prune)


def prune(
    config: ConfigArgument,
    workspace: WorkspaceOption = Path(DEFAULT),
    plan: Annotated[
        bool, typer.Option("--plan", help="Read and check as a run would, count trainings; start nothing.")
    ] = False,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score labelled rows, find which to prune and which labels look wrong, and measure what that costs."""
    if plan:
        _plan(config, workspace, json_)
        return

    def load() -> Any:
        from flows.prune import prune_data

        return prune_data

    result = called(load, config, workspace, quiet)
    if json_:
        print_json(result.model_dump(mode="json"))
        return
    from flows.prune_summary import show_prune

    show_prune(result)


def _plan(config: Path, workspace: Path, json_: bool) -> None:
    from nncift_core.config_prune import load_prune_config
    from nncift_core.pruning.overview import overview

    found = overview(load_prune_config(config), workspace)
    if json_:
        print_json(found)
        return
    note = found.pop("labels_note")
    for name, value in found.items():
        print(f"{name.replace('_', ' '):<22}{value:>14,}" if isinstance(value, int) else
              f"{name.replace('_', ' '):<22}{value:>14}")  # fmt: skip
    if note:
        print(f"note: {note}")
