"""`nncift merge`: one model of a student and its adapter."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_options import WorkspaceOption
from flows.cli_output import JsonOption, print_json
from nncift_core.errors import UserError
from nncift_core.store.workspace import DEFAULT


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("merge")(merge)


def merge(
    source: Annotated[str, typer.Argument(help="Folder of an adapter, or a run that trained one.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for the whole model.")],
    workspace: WorkspaceOption = Path(DEFAULT),
    student: Annotated[
        str | None,
        typer.Option("--student", help="The model it was trained on: a folder or a hub id, if not found."),
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="Of the weights: student (as its files have them) or float32.")
    ] = "student",
    json_: JsonOption = False,
) -> None:
    """Merge an adapter into its student: a model folder that needs no adapter library."""
    from nncift_core.pipeline.merge import merge as merged

    if dtype not in ("student", "float32"):
        raise UserError(f'no such dtype "{dtype}"', field="--dtype", mend="Use student or float32.")
    done = merged(
        source,
        output,
        workspace=workspace,
        model=student,
        dtype="float32" if dtype == "float32" else "student",
    )
    if json_:
        print_json(asdict(done))
        return
    print(f"{done.student} with its adapter, weights in {done.dtype}: {done.output}")
