"""`nncift plan`: what a run would do, take and cost, before it is started."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_options import ConfigArgument, WorkspaceOption
from flows.cli_output import JsonOption, print_json
from nncift_core.errors import UserError
from nncift_core.store.workspace import DEFAULT

_Calibrate = Annotated[
    bool,
    typer.Option(
        "--calibrate",
        help="Measure a few batches of every stage here, keep what was found in the workspace, and forecast "
        "by it (30-60 s with the built-in models).",
    ),
]
_Price = Annotated[
    float | None,
    typer.Option("--price-per-hour", help="What an hour of this machine costs, in any currency."),
]
_Hours = Annotated[
    float | None, typer.Option("--warn-hours", help="Warn when the run would take longer than this.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def plan(
        config: ConfigArgument,
        workspace: WorkspaceOption = Path(DEFAULT),
        calibrate: _Calibrate = False,
        price_per_hour: _Price = None,
        warn_hours: _Hours = None,
        json_: JsonOption = False,
    ) -> None:
        """Read and check config and data as `run` would, and forecast time, disk and memory; start nothing
        and write nothing but, with --calibrate, what was measured."""
        from nncift_core.config import load_config
        from nncift_core.pipeline.plan import plan as make_plan

        for option, value in (("--price-per-hour", price_per_hour), ("--warn-hours", warn_hours)):
            if value is not None and not value >= 0:
                raise UserError("must be a number from 0 on", field=option, mend="Give another one.")
        settings = load_config(config)
        rates = None
        if calibrate:
            from nncift_core.forecast.rehearsal import calibrate as measure

            rates = measure(settings, workspace, lambda text: print(f"calibrate: {text}", file=sys.stderr))
        found = make_plan(settings, workspace, rates, price_per_hour=price_per_hour, warn_hours=warn_hours)
        if json_:
            print_json(found)
            return
        from flows.plan_summary import show_plan

        show_plan(found)
