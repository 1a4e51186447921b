"""What `nncift deploy` will make: the shipped definitions, with a user's config and schedule in them."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from pydantic import ValidationError

from flows.one_at_a_time import workspace_digest
from nncift_core.config import Config, load_config
from nncift_core.config_prune import load_prune_config
from nncift_core.config_toml import read_toml
from nncift_core.errors import UserError
from nncift_core.store.remote.address import address_of

# The work pool of the shipped definitions, and what `nncift deploy` calls it without --pool.
POOL = "nncift"
FOLDER = Path(__file__).resolve().parents[1] / "deployments"
DATA_ARRIVED = "nncift.data.arrived"

Schedule = CronSchedule | IntervalSchedule | RRuleSchedule


@dataclass(frozen=True)
class Definition:
    """One deployment, as the server is told of it.

    entrypoint: the flow's module path, importable wherever this package is installed; schedules: each with
    whether it is active; concurrency: runs at a time, None: any number; pool_suffix: what the name of its
    work pool has behind that of the others.
    """

    name: str
    entrypoint: str
    description: str
    tags: list[str]
    parameters: dict[str, Any]
    schedules: list[tuple[Schedule, bool]]
    concurrency: dict[str, Any] | None
    job_variables: dict[str, Any]
    pool_suffix: str = ""
    triggers: list[dict[str, Any]] = field(default_factory=list)


def shipped(workspace: str | Path) -> list[Definition]:
    """The deployments of deployments/prefect.yaml over `workspace`: the built-in data."""
    return [_definition(d, workspace) for d in read_yaml("prefect.yaml")["deployments"]]


def read_yaml(name: str) -> dict[str, Any]:
    """A file of deployments/. Raises UserError when the installation lacks it."""
    try:
        found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            "not part of this installation", file=FOLDER / name, mend="Install nncift again, from a wheel."
        ) from None
    return found


def _definition(raw: dict[str, Any], workspace: str | Path) -> Definition:
    where = address_of(workspace)
    path, function = raw["entrypoint"].split(":")
    module = path.removesuffix(".py").replace("/", ".")
    return Definition(
        name=raw["name"],
        entrypoint=f"{module}.{function}",
        description=raw["description"],
        tags=raw["tags"],
        parameters={**raw["parameters"], "workspace": where} if raw["parameters"] else {},
        schedules=[(_schedule(s), s.get("active", True)) for s in raw["schedules"]],
        concurrency=raw.get("concurrency_limit"),
        job_variables=raw["work_pool"]["job_variables"],
        pool_suffix=raw["work_pool"]["name"].removeprefix(POOL),
        triggers=[_own(t, workspace) for t in raw.get("triggers", [])],
    )


def _own(trigger: dict[str, Any], workspace: str | Path) -> dict[str, Any]:
    """A trigger that hears events of this workspace only."""
    digest = workspace_digest(workspace)
    name = f"{trigger['name']}-{digest}"
    return {**trigger, "name": name, "match": {"prefect.resource.id": f"nncift.workspace.{digest}"}}


def _schedule(raw: dict[str, Any]) -> Schedule:
    zone = {"timezone": raw["timezone"]} if raw.get("timezone") else {}
    if "cron" in raw:
        return CronSchedule(cron=raw["cron"], **zone)
    if "rrule" in raw:
        return RRuleSchedule(rrule=raw["rrule"], **zone)
    return IntervalSchedule.model_validate({"interval": raw["interval"], **zone})


def with_config(definitions: list[Definition], path: str | Path) -> list[Definition]:
    """`definitions` with the user's job in the place of the built-in data.

    `valuation` stops after the selection; `compare` and `methods` need [finetune] in the config, or they are
    left out; the config of a prune job ([data] in the place of [pool]) makes `prune`. `shards` serves any.
    Data files named from the current directory are named in full, for a worker runs elsewhere.
    Raises UserError for what is wrong in the config, as `nncift run` does; data files are not read.
    """
    path = Path(path)
    written = read_toml(path)
    if "data" in written and "pool" not in written:
        return _pruning(definitions, path)
    base_dir = load_config(path).base_dir
    # Checked above; taken as written, so that "auto" is settled by the machine that runs the job.
    config = Config.model_validate(written).model_dump(mode="json")
    _name_in_full(config, Path(base_dir))
    alone = {k: v for k, v in config.items() if k not in ("finetune", "evaluation")}
    jobs = {"valuation": alone, "refresh": config if config["finetune"] else alone}
    if config["finetune"]:
        jobs["compare"] = config
        if config["target"]["test"]:
            jobs["methods"] = config
    return [
        replace(d, parameters={**d.parameters, "config": _without_none(jobs[d.name]), "base_dir": base_dir})
        for d in definitions
        if d.name in jobs
    ] + _of_no_job(definitions)


def _pruning(definitions: list[Definition], path: Path) -> list[Definition]:
    resolved = load_prune_config(path)
    base_dir = resolved.base_dir
    config = resolved.model_dump(mode="json")
    for key in ("source", "test", "new"):
        if config["data"][key] is not None:
            config["data"][key] = _in_full(config["data"][key], Path(base_dir))
    given = {"config": _without_none(config), "base_dir": base_dir}
    prune = next(d for d in definitions if d.name == "prune")
    return [replace(prune, parameters={**prune.parameters, **given}), *_of_no_job(definitions)]


def _of_no_job(definitions: list[Definition]) -> list[Definition]:
    """Those that serve runs of any config: groups of shards."""
    return [d for d in definitions if not d.parameters]


def _without_none(config: dict[str, Any]) -> dict[str, Any]:
    """TOML has no null: what is not set is left out, so that the parameters read as the file does."""
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in config.items() if v is not None}


def _name_in_full(config: dict[str, Any], base_dir: Path) -> None:
    """Data that `nncift run` would find in the current directory only gets its absolute path."""
    for dataset in (config["pool"], config["target"], config["selection"]["existing"] or {}):
        for key in ("source", "test"):
            value = dataset.get(key)
            if isinstance(value, str):
                dataset[key] = _in_full(value, base_dir)
            elif value is not None:
                dataset[key] = [_in_full(v, base_dir) for v in value]


def _in_full(source: str, base_dir: Path) -> str:
    named = os.path.expanduser(source)

    def there(folder: Path) -> bool:
        return os.path.lexists(folder / named) or bool(
            glob.has_magic(named) and glob.glob(str(folder / named))
        )

    return str(Path.cwd() / named) if there(Path.cwd()) and not there(base_dir) else source


def scheduled(
    definitions: list[Definition], cron: str | None, interval: float | None, timezone: str | None
) -> list[Definition]:
    """`definitions` with another schedule of `refresh`; without cron and interval they stay as they are.

    interval: seconds. Raises UserError for both at once, and for what Prefect does not accept.
    """
    if cron is not None and interval is not None:
        raise UserError("two schedules are given", field="--cron, --interval", mend="Keep one of them.")
    if cron is None and interval is None:
        if timezone is None:
            return definitions
        raise UserError(
            "a time zone alone is no schedule",
            field="--timezone",
            mend='Add --cron, as in --cron "0 2 * * *".',
        )
    option = "--cron" if cron is not None else "--interval"
    raw = {"cron": cron} if cron is not None else {"interval": interval}
    try:
        schedule = _schedule({**raw, "timezone": timezone})
    except (ValidationError, OverflowError) as e:
        wrong_zone = isinstance(e, ValidationError) and any("timezone" in x["loc"] for x in e.errors())
        raise UserError(
            f"{timezone if wrong_zone else raw[option.removeprefix('--')]!r} is not understood",
            field="--timezone" if wrong_zone else option,
            mend='Write --cron "0 2 * * *" (minute hour day month weekday), --interval 3600 (seconds), '
            "--timezone Europe/Paris.",
        ) from None
    return [replace(d, schedules=[(schedule, True)]) if d.name == "refresh" else d for d in definitions]
