"""The `nncift` command. Heavy imports wait until a command needs them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import (
    cli_audit,
    cli_compare,
    cli_deploy,
    cli_diff,
    cli_explain,
    cli_gc,
    cli_join,
    cli_lineage,
    cli_merge,
    cli_plan,
    cli_prune,
    cli_refresh,
)
from flows.cli_options import ConfigArgument, QuietOption, WorkspaceOption
from flows.cli_output import JsonOption, fail, print_json
from flows.cli_running import apart, called, quieten, until_interrupted
from flows.cli_server import server_app
from nncift_core import __version__
from nncift_core.errors import NnciftError, UserError
from nncift_core.store.workspace import DEFAULT, Workspace

app = typer.Typer(
    name="nncift",
    help="Decide which fine-tuning rows are worth training on.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(server_app, name="server")


def _version(show: bool) -> None:
    if show:
        print(f"nncift {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    config: ConfigArgument,
    workspace: WorkspaceOption = Path(DEFAULT),
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Value a pool and choose a subset; what the workspace holds already is reused."""
    result = _valued(config, workspace, quiet)
    if json_:
        print_json(result.model_dump(mode="json"))
        return
    from flows.summary import show

    show(result)


@app.command()
def quickstart(
    workspace: WorkspaceOption = Path("quickstart-workspace"),
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Value the built-in pool, fine-tune on the subset, compare with random rows: no network, minutes."""
    from nncift_core.builtin.quickstart import quickstart_config, second_target_config

    # The main job comes last, so that queries without --run speak of it.
    second = _valued(second_target_config(), workspace, quiet)
    main_ = _valued(quickstart_config(), workspace, quiet)
    if json_:
        print_json({**main_.model_dump(mode="json"), "second_target": second.model_dump(mode="json")})
        return
    from flows.summary import show, show_second

    show_second(main_, second)
    show(main_)


def _valued(config: Any, workspace: Path, quiet: bool) -> Any:
    """Run a valuation and return its result."""

    def load() -> Any:
        from flows.valuation import value_pool

        return value_pool

    return called(load, config, workspace, quiet)


@app.command()
def sweep(
    config: ConfigArgument,
    study: Annotated[
        str,
        typer.Option("--study", help="figures (quality by labels and network) or estimators (which one)."),
    ] = "figures",
    workspace: WorkspaceOption = Path(DEFAULT),
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Study estimators on a small exact matrix of the job; values and fits made before are reused."""

    def call() -> Any:
        from flows.sweep import study_estimators

        return study_estimators(config, study, workspace)

    result = until_interrupted(lambda: apart(call), quiet)
    if json_:
        print_json(result.model_dump(mode="json"))
        return
    from flows.sweep_summary import show_sweep

    show_sweep(result)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="One SELECT over the views.")],
    workspace: WorkspaceOption = Path(DEFAULT),
    run: Annotated[
        str | None, typer.Option("--run", help="A run id, or all; default: the latest run.")
    ] = None,
    compute: Annotated[
        str | None,
        typer.Option(
            help="Compute all influence values of the pool rows that meet this condition on the view "
            "examples, for a run whose matrix is not stored (store_matrix)."
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Ask the workspace in SQL (read-only)."""
    from nncift_core.store.query import query as ask

    ws = Workspace.open(workspace)
    if compute is None:
        table = ask(ws, sql, run)
        _hint(ws, sql, run)
    else:
        from nncift_core.pipeline.recompute import recomputed

        with recomputed(ws, compute, run) as (run_id, files):
            table = ask(ws, sql, run_id, {run_id: files})
    if json_:
        print_json(table.to_pylist())
        return
    from flows.terminal import show_rows

    show_rows(table)


def _hint(ws: Workspace, sql: str, run: str | None) -> None:
    """Say on stderr when the view `influence` lacks what a run did not store."""
    from nncift_core.store.query import rows

    if not re.search(r"\binfluence\b", sql, re.IGNORECASE):
        return
    kept = rows(ws, "SELECT run_id, text FROM facts WHERE fact = 'store_matrix' AND text <> 'all'", run)
    for row in kept:
        print(
            f'note: run {row["run_id"]} stores no estimates (store_matrix = "{row["text"]}"); '
            "--compute CONDITION adds the values of some pool rows",
            file=sys.stderr,
        )


@app.command()
def report(
    workspace: WorkspaceOption = Path(DEFAULT),
    run: Annotated[str | None, typer.Option("--run", help="A run id; default: the latest run.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write it to this file.")] = None,
    json_: JsonOption = False,
) -> None:
    """Write a run's report, one HTML file that needs nothing else, and say where it is."""
    from nncift_core.pipeline.report import copy_report, report_of

    found = report_of(Workspace.open(workspace), run)
    if output is not None:
        copy_report(found, output)
    if json_:
        print_json({"run_id": found.run_id, "report": str(output or found.path)})
    else:
        print(output or found.path)


@app.command()
def doctor(workspace: WorkspaceOption = Path(DEFAULT), json_: JsonOption = False) -> None:
    """Check Python, packages, devices, memory, disk, server, hub and browser; say how to mend each."""
    quieten()
    from dataclasses import asdict

    from flows.doctor import check, show

    checks = check(workspace)
    if json_:
        print_json([asdict(c) for c in checks])
    else:
        show(checks)
    if any(c.needed and c.status != "ok" for c in checks):
        sys.exit(1)


for _more in (
    cli_plan,
    cli_compare,
    cli_audit,
    cli_prune,
    cli_refresh,
    cli_explain,
    cli_diff,
    cli_lineage,
    cli_merge,
    cli_gc,
    cli_join,
    cli_deploy,
):
    _more.register(app)


def main() -> None:
    """Entry point: one message and exit code 2 for wrong input, 1 for a failed run."""
    try:
        app()
    except UserError as e:
        fail(str(e), 2)
    except NnciftError as e:
        fail(str(e), 1)
    except OSError as e:
        if isinstance(e, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        fail(f"{e.filename or 'the system'}: {e.strerror or e}. Mend that and run again", 1)


if __name__ == "__main__":
    main()
