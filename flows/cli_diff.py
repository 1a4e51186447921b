"""`nncift diff`: what two runs chose otherwise, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_options import WorkspaceOption
from flows.cli_output import JsonOption, print_json
from nncift_core.store.workspace import DEFAULT, Workspace

_RunBefore = Annotated[str, typer.Argument(metavar="RUN", help="The earlier run: its id, or how it begins.")]
_RunAfter = Annotated[str, typer.Argument(metavar="RUN", help="The later run.")]
_Limit = Annotated[int, typer.Option("--limit", min=0, help="Changed rows that are listed.")]


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def diff(
        before: _RunBefore,
        after: _RunAfter,
        workspace: WorkspaceOption = Path(DEFAULT),
        json_: JsonOption = False,
        limit: _Limit = 20,
    ) -> None:
        """Say what differs between two runs: settings, data, estimator, and which rows entered or left the
        subset and why."""
        from flows.diff_summary import shared_out, show_diff
        from nncift_core.pipeline.diff_runs import compare_runs, excerpts

        ws = Workspace.open(workspace)
        found = compare_runs(ws, before, after)
        listed = shared_out(found.changes, limit)
        texts = excerpts(ws, found, listed)
        if json_:
            rows = [{**row, "prompt": texts.get(row["train_id"])} for row in listed]
            left_out = len(found.changes) - len(listed)
            print_json({**found.told, "changes": rows, "changes_left_out": left_out})
        else:
            show_diff(found, texts, limit)
