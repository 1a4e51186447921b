"""`nncift audit`: do values say what training does?"""

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
    app.command("audit")(audit)


def audit(
    config: ConfigArgument,
    workspace: WorkspaceOption = Path(DEFAULT),
    plan: Annotated[
        bool, typer.Option("--plan", help="Read and check as a run would, count the models; start nothing.")
    ] = False,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Test values against models trained on random subsets, and against planted copies and wrong answers."""
    if plan:
        _plan(config, workspace, json_)
        return

    def load() -> Any:
        from flows.audit import audit_values

        return audit_values

    result = called(load, config, workspace, quiet)
    if json_:
        print_json(result.model_dump(mode="json"))
        return
    from flows.audit_summary import show_audit

    show_audit(result)


_TOLD = {
    "pool_rows": "pool rows", "queries": "queries", "methods": "methods", "models": "models, at most",
    "subsets": "  on random subsets", "controls": "  without random rows", "qld": "  without a query's best",
    "top_k": "  without the best", "kept": "  of them kept here", "training_rows": "training rows",
    "planted_wrong": "planted wrong answers", "planted_copies": "planted copies, at most",
}  # fmt: skip


def _plan(config: Path, workspace: Path, json_: bool) -> None:
    from nncift_core.config import load_config
    from nncift_core.pipeline.attribution_plan import audit_plan

    found = audit_plan(load_config(config), workspace)
    if json_:
        print_json(found)
        return
    for name, label in _TOLD.items():
        print(f"{label:<26}{found[name]:>12,}")
    seconds = found["seconds"]
    shown = "unknown until this workspace has trained a model" if seconds is None else f"{seconds:,.0f} s"
    print(f"{'training, forecast':<26}{shown:>12}")
    if found["default_finetune"]:
        print("note: no section [finetune]: models are trained with its defaults")
