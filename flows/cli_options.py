"""Options and arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        envvar="NNCIFT_WORKSPACE",
        help="Folder that keeps everything computed, or its URL (s3://BUCKET/PREFIX).",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
ConfigArgument = Annotated[Path, typer.Argument(help="TOML config of the job.")]
