"""`nncift deploy` and `nncift notify-data`: schedules on a server."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_options import WorkspaceOption
from flows.cli_output import JsonOption, print_json
from flows.cli_running import quieten
from nncift_core.store.remote.address import address_of
from nncift_core.store.workspace import DEFAULT

# What the work pool of shard groups has behind the name of the other one (deployments/prefect.yaml).
SHARDS = "-shards"

ConfigToDeploy = Annotated[
    Path | None,
    typer.Argument(envvar="NNCIFT_CONFIG", help="TOML config of the job; without it the built-in data."),
]
WebhookOption = Annotated[
    str | None,
    typer.Option(
        help='Call this URL when a run fails; it is kept as a secret on the server. "off": call nobody.',
        envvar="NNCIFT_WEBHOOK",
        show_envvar=True,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(deploy)
    app.command("notify-data")(notify_data)


def deploy(
    config: ConfigToDeploy = None,
    workspace: WorkspaceOption = Path(DEFAULT),
    cron: Annotated[
        str | None, typer.Option(help='When to refresh, as in "0 2 * * *" (the default, in UTC).')
    ] = None,
    interval: Annotated[float | None, typer.Option(min=1, help="Or: seconds between refreshes.")] = None,
    timezone: Annotated[str | None, typer.Option(help="Of --cron, as in Europe/Paris.")] = None,
    webhook: WebhookOption = None,
    pool: Annotated[str, typer.Option(help="Work pool that the runs wait in; made if missing.")] = "nncift",
    json_: JsonOption = False,
) -> None:
    """Put valuation, refresh, compare and prune with their schedules on the server in PREFECT_API_URL."""
    quieten()
    from flows import deploy as server_side
    from flows.api import reachable
    from flows.definitions import scheduled, shipped, with_config
    from flows.one_at_a_time import limit_name

    where = address_of(workspace)
    definitions = shipped(where) if config is None else with_config(shipped(where), config)
    definitions = scheduled(definitions, cron, interval, timezone)
    if webhook not in (None, "off"):
        server_side.check_webhook(str(webhook))
    with reachable() as (client, api_url):
        ui_url = api_url.removesuffix("/api")
        made = server_side.apply(client, definitions, where, pool, ui_url)
        if webhook == "off":
            server_side.forget_notification(client)
        elif webhook is not None:
            server_side.notify_failures(client, webhook)
        notifies = server_side.notifies(client)
    prefect = f"PREFECT_API_URL={shlex.quote(api_url)} {_prefect()}"
    found: dict[str, Any] = {
        "api_url": api_url,
        "ui_url": ui_url,
        "workspace": where,
        "config": str(config.resolve()) if config else None,
        "work_pool": pool,
        "limit": limit_name(where),
        "deployments": [asdict(d) for d in made],
        "notifies": notifies,
        "start_worker": f"{prefect} worker start --pool {shlex.quote(pool)} --type process --limit 1",
        "start_shard_worker": f"{prefect} worker start --pool {shlex.quote(pool + SHARDS)} --type process "
        "--limit 1",
        "run_now": f"{prefect} deployment run {_first(made)}",
    }
    if json_:
        print_json(found)
    else:
        _show(found)


def _first(made: list[Any]) -> str:
    """The deployment that a person would start by hand: the recurring one, where there is one."""
    names = [d.name for d in made]
    return "refresh/refresh" if "refresh/refresh" in names else names[0]


def _prefect() -> str:
    """What to type for Prefect's own command: its name when the shell finds it, else its path."""
    if shutil.which("prefect"):
        return "prefect"
    return shlex.quote(str(Path(sys.executable).with_name("prefect")))


def _show(found: dict[str, Any]) -> None:
    """Say what stands on the server now, and what to type next."""
    job = found["config"] or "the built-in data"
    print(f"deployed {job} over workspace {found['workspace']} to {found['ui_url']}")
    for d in found["deployments"]:
        when = ", ".join(d["schedules"]) or "no schedule"
        print(f"  {d['name']:22} {when:30} {d['url']}")
        if d["moved_from"]:
            print(f"  note: {d['name']} served workspace {d['moved_from']} until now")
    names = {d["name"].split("/")[-1] for d in found["deployments"]}
    if "valuation" in names and "compare" not in names:
        print("  note: compare is left out, for the config has no [finetune]")
    print(f"  work pool {found['work_pool']}; one run at a time in the workspace (limit {found['limit']})")
    print("  runs without a heartbeat for 90 seconds are marked Crashed")
    told = "the webhook is called" if found["notifies"] else "nobody is told (--webhook URL changes that)"
    print(f"  when a run fails, {told}")
    print(f"start a worker:  {found['start_worker']}")
    print(f"run now:         {found['run_now']}")
    print('with runner = "prefect", one for each GPU of each machine (CUDA_VISIBLE_DEVICES says which):')
    print(f"  {found['start_shard_worker']}")


def notify_data(
    workspace: WorkspaceOption = Path(DEFAULT),
    dataset: Annotated[
        str | None, typer.Option(help="Name of the data set that grew, for the record.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Tell the server that new rows are there: the deployed refresh of this workspace starts."""
    quieten()
    from flows.api import reachable
    from flows.notify import data_arrived, listeners

    with reachable() as (client, api_url):
        event = data_arrived(client, workspace, dataset)
        heard_by = listeners(client, workspace)
    if json_:
        print_json({"event": event, "api_url": api_url, "heard_by": heard_by})
        return
    print(f"the server at {api_url} knows that new data are there")
    if not heard_by:
        print(
            f"note: nothing there listens for workspace {address_of(workspace)}; "
            "deploy it first: nncift deploy --workspace DIR",
            file=sys.stderr,
        )
