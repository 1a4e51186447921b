"""`nncift join`: this machine takes part in trainings of a job on another one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_options import ConfigArgument, WorkspaceOption
from flows.cli_running import until_interrupted
from nncift_core.store.workspace import DEFAULT


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("join")(join)


def join(
    config: ConfigArgument,
    workspace: WorkspaceOption = Path(DEFAULT),
    once: Annotated[bool, typer.Option("--once", help="End after the first training.")] = False,
) -> None:
    """Train along with a job on another host (finetune.hosts), training after training, until Ctrl-C."""
    # Torch tells of a job that ended in many lines of its own.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")

    def call() -> None:
        from nncift_core.config import load_config
        from nncift_core.pipeline.joining import join as joined
        from nncift_core.store.workspace import Workspace

        joined(load_config(config), Workspace.open(workspace), _say, once=once)

    until_interrupted(call, quiet=True)


def _say(line: str) -> None:
    print(line, flush=True)
