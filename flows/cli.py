"""The `nncift` command. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

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
server_app = typer.Typer(help="The local Prefect server (loopback only).", no_args_is_help=True)
app.add_typer(server_app, name="server")

WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace", "-w", envvar="NNCIFT_WORKSPACE", help="Folder that keeps everything computed."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one JSON value on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
ConfigArgument = Annotated[Path, typer.Argument(help="TOML config of the job.")]


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
    result = _run(lambda value_pool: value_pool(config, workspace, _command()), quiet)
    if json_:
        _print_json(result.model_dump(mode="json"))
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
    second = _run(lambda value_pool: value_pool(second_target_config(), workspace, _command()), quiet)
    main_ = _run(lambda value_pool: value_pool(quickstart_config(), workspace, _command()), quiet)
    if json_:
        _print_json({**main_.model_dump(mode="json"), "second_target": second.model_dump(mode="json")})
        return
    from flows.summary import show, show_second

    show_second(main_, second)
    show(main_)


def _command() -> str:
    """What was typed, as it can be typed again."""
    return shlex.join(["nncift", *sys.argv[1:]])


def _run(call: Callable[..., Any], quiet: bool) -> Any:
    """Run a valuation and return its result."""
    _quieten()
    from flows.valuation import value_pool
    from tasks.progress import reporter

    reporter.mode = "quiet" if quiet else "auto"
    try:
        return call(value_pool)
    except KeyboardInterrupt:
        _fail("interrupted; what is finished is kept: run the same command again to go on", 130)


def _quieten() -> None:
    """Prefect's log lines go to the server and the UI, not over our progress and messages."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")


@app.command()
def plan(
    config: ConfigArgument, workspace: WorkspaceOption = Path(DEFAULT), json_: JsonOption = False
) -> None:
    """Read and check config and data as `run` would; start nothing, write nothing."""
    from nncift_core.config import load_config
    from nncift_core.pipeline.plan import plan as make_plan

    found = make_plan(load_config(config), workspace)
    if json_:
        _print_json(found)
        return
    seconds = found["forecast_seconds"]
    print(f"pool rows       {found['pool_rows']:>14,}")
    print(f"target rows     {found['target_rows']:>14,}")
    print(f"rows dropped    {found['rows_dropped']:>14,}")
    print(f"duplicates      {found['duplicates']:>14,}")
    print(f"pairs           {found['pairs']:>14,}")
    print(f"exact pairs     {found['exact_pairs']:>14,}")
    if found["features"]:
        print(f"features        {found['features']:>14,} (rows and target rows, at most)")
    if found["forward_passes"]:
        print(f"forward passes  {found['forward_passes']:>14,} (of the language model, at most)")
    print(f"held-out rows   {found['test_rows']:>14,}")
    print(f"fine-tunes      {found['fine_tunes']:>14,}")
    shown = "unknown until this workspace has run such a job" if seconds is None else f"{seconds:,.0f} s"
    print(f"forecast time   {shown:>14} (if nothing were reused)")
    print(f"forecast disk   {found['forecast_disk_mb']:>14,} MB")


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
    _quieten()
    from flows.sweep import study_estimators
    from tasks.progress import reporter

    reporter.mode = "quiet" if quiet else "auto"
    try:
        result = study_estimators(config, study, workspace)
    except KeyboardInterrupt:
        _fail("interrupted; what is finished is kept: run the same command again to go on", 130)
    if json_:
        _print_json(result.model_dump(mode="json"))
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
    json_: JsonOption = False,
) -> None:
    """Ask the workspace in SQL (read-only)."""
    from nncift_core.store.query import query as ask

    table = ask(Workspace.open(workspace), sql, run)
    if json_:
        _print_json(table.to_pylist())
        return
    from flows.summary import show_rows

    show_rows(table)


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
        _print_json({"run_id": found.run_id, "report": str(output or found.path)})
    else:
        print(output or found.path)


@app.command()
def doctor(workspace: WorkspaceOption = Path(DEFAULT), json_: JsonOption = False) -> None:
    """Check Python, packages, devices, memory, disk, server, hub and browser; say how to mend each."""
    _quieten()
    from dataclasses import asdict

    from flows.doctor import check, show

    checks = check(workspace)
    if json_:
        _print_json([asdict(c) for c in checks])
    else:
        show(checks)
    if any(c.needed and c.status != "ok" for c in checks):
        sys.exit(1)


@server_app.command("start")
def server_start(
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Default 4200.")] = None,
    json_: JsonOption = False,
) -> None:
    """Start the server; it stays up until `nncift server stop`."""
    from flows import server

    _show_server(server.start(port), json_)


@server_app.command("stop")
def server_stop(json_: JsonOption = False) -> None:
    """Stop the server that nncift started."""
    from flows import server

    stopped = server.stop()
    if json_:
        _print_json({"stopped": stopped})
    else:
        print("stopped" if stopped else "no server of nncift's is running")


@server_app.command("status")
def server_status(json_: JsonOption = False) -> None:
    """Say whether the server runs, and where."""
    from flows import server

    _show_server(server.running(), json_)


def _show_server(state: Any, json_: bool) -> None:
    if json_:
        shown = {"running": state is not None}
        if state is not None:
            shown |= {"pid": state.pid, "port": state.port, "ui_url": state.ui_url, "api_url": state.api_url}
        _print_json(shown)
    elif state is None:
        print("not running; start it with: nncift server start")
    else:
        print(f"running: {state.ui_url} (API {state.api_url}, process {state.pid or 'not ours'})")


def _print_json(value: Any) -> None:
    print(json.dumps(_finite(value), ensure_ascii=False, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: null stands for them. Decimals become numbers."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list) else value


def _fail(message: str, code: int) -> NoReturn:
    print(f"nncift: {message}", file=sys.stderr)
    sys.exit(code)


def main() -> None:
    """Entry point: one message and exit code 2 for wrong input, 1 for a failed run."""
    try:
        app()
    except UserError as e:
        _fail(str(e), 2)
    except NnciftError as e:
        _fail(str(e), 1)
    except OSError as e:
        if isinstance(e, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        _fail(f"{e.filename or 'the system'}: {e.strerror or e}. Mend that and run again", 1)


if __name__ == "__main__":
    main()
