"""`nncift server`: start, stop and look at the local Prefect server."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.cli_output import JsonOption, print_json

server_app = typer.Typer(help="The local Prefect server (loopback only).", no_args_is_help=True)


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
        print_json({"stopped": stopped})
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
        print_json(shown)
    elif state is None:
        print("not running; start it with: nncift server start")
    else:
        print(f"running: {state.ui_url} (API {state.api_url}, process {state.pid or 'not ours'})")
