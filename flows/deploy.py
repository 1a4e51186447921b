"""`nncift deploy`: work pool, deployments, limits, automations and notification on a Prefect server."""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from prefect import Flow
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
)
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyOptions, StateType
from prefect.events.schemas.automations import AutomationCore
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker
from pydantic import SecretStr

from flows.definitions import Definition, Schedule, read_yaml
from flows.one_at_a_time import limit_name
from nncift_core.errors import UserError

BLOCK = "nncift-failures"


# Deployments that a config without [finetune] leaves out.
_TRAINING = ("valuation/compare", "compare/methods")


@dataclass(frozen=True)
class Deployed:
    """One deployment that stands on the server now.

    name: FLOW/DEPLOYMENT; schedules: for people; moved_from: the workspace that the deployment of this name
    served until now, where that was another one.
    """

    name: str
    id: str
    url: str
    schedules: list[str]
    moved_from: str | None


def apply(
    client: SyncPrefectClient, definitions: list[Definition], workspace: str, pool: str, ui_url: str
) -> list[Deployed]:
    """Make or replace everything that `definitions` need; doing it again changes nothing.

    Raises UserError when the work pool exists and is not of process workers.
    """
    flows = {d.name: _flow(d.entrypoint) for d in definitions}
    for name in sorted({pool + d.pool_suffix for d in definitions}):
        _pool(client, name)
    _limit(client, limit_name(workspace))
    made = [_deployment(client, d, flows[d.name], pool + d.pool_suffix, ui_url) for d in definitions]
    _delete_others(client, definitions)
    for automation in read_yaml("automations.yaml")["automations"]:
        put_automation(client, AutomationCore.model_validate(automation))
    return made


def _delete_others(client: SyncPrefectClient, definitions: list[Definition]) -> None:
    """Delete deployments of an earlier config that this one leaves out: those that train, for one."""
    names = {d.name for d in definitions}
    if "valuation" not in names:
        return
    for full_name in _TRAINING:
        if full_name.partition("/")[2] not in names:
            with contextlib.suppress(ObjectNotFound):
                client.delete_deployment(client.read_deployment_by_name(full_name).id)


def _flow(entrypoint: str) -> Flow[..., Any]:
    module, _, name = entrypoint.rpartition(".")
    flow: Flow[..., Any] = getattr(importlib.import_module(module), name)
    return flow


def _pool(client: SyncPrefectClient, name: str) -> None:
    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
        return
    if found.type != "process":
        raise UserError(
            f"work pool {name} is of type {found.type}; runs of nncift need process workers",
            field="--pool",
            mend="Name another pool; one that does not exist is made.",
        )


def _limit(client: SyncPrefectClient, name: str) -> None:
    """The limit of a workspace, with one place; a place that no run can hold is set free.

    A server that keeps leases in memory, as is the default, forgets them when it is killed, and the place
    would stay taken for ever.
    """
    client.upsert_global_concurrency_limit_by_name(name, limit=1)
    running = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])),
        tags=FlowRunFilterTags(all_=["nncift"]),
    )
    taken = client.read_global_concurrency_limit_by_name(name).active_slots
    if taken and not client.read_flow_runs(flow_run_filter=running, limit=1):
        client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active_slots=0))


def _deployment(
    client: SyncPrefectClient, d: Definition, flow: Flow[..., Any], pool: str, ui_url: str
) -> Deployed:
    """Make or replace one deployment with its schedules and triggers."""
    full_name = f"{flow.name}/{d.name}"
    moved_from = _other_workspace(client, full_name, d)
    limit, options = None, None
    if d.concurrency is not None:
        wanted = ConcurrencyLimitConfig.model_validate(d.concurrency)
        limit, options = wanted.limit, ConcurrencyOptions(collision_strategy=wanted.collision_strategy)
    id_ = client.create_deployment(
        flow_id=client.create_flow_from_name(flow.name),
        name=d.name,
        entrypoint=d.entrypoint,
        description=d.description,
        tags=d.tags,
        parameters=d.parameters,
        parameter_openapi_schema=parameter_schema(flow.fn).model_dump(exclude_unset=True),
        enforce_parameter_schema=True,
        schedules=[DeploymentScheduleCreate(schedule=s, active=active) for s, active in d.schedules],
        concurrency_limit=limit,
        concurrency_options=options,
        work_pool_name=pool,
        job_variables=d.job_variables,
        # The package is installed where workers are: nothing is fetched, and no folder is entered.
        pull_steps=[],
    )
    client.delete_resource_owned_automations(f"prefect.deployment.{id_}")
    for raw in d.triggers:
        trigger = DeploymentEventTrigger.model_validate(raw)
        trigger.set_deployment_id(id_)
        client.create_automation(trigger.as_automation())
    shown = [_shown(s) + ("" if active else " (off)") for s, active in d.schedules]
    return Deployed(full_name, str(id_), f"{ui_url}/deployments/deployment/{id_}", shown, moved_from)


def _other_workspace(client: SyncPrefectClient, full_name: str, d: Definition) -> str | None:
    """The workspace that a deployment of this name serves now, if it is not that of `d`."""
    try:
        before = client.read_deployment_by_name(full_name)
    except ObjectNotFound:
        return None
    workspace = before.parameters.get("workspace")
    return None if workspace == d.parameters.get("workspace") else str(workspace)


def _shown(schedule: Schedule) -> str:
    zone = getattr(schedule, "timezone", None) or "UTC"
    if hasattr(schedule, "cron"):
        return f"cron {schedule.cron} ({zone})"
    if hasattr(schedule, "interval"):
        return f"every {_seconds(schedule.interval)} s"
    return f"{schedule.rrule} ({zone})"


def _seconds(interval: timedelta) -> str:
    return f"{interval.total_seconds():,g}"


def put_automation(client: SyncPrefectClient, automation: AutomationCore) -> UUID:
    """Create the automation, or replace the one of that name; a second of that name is removed."""
    found = client.read_automations_by_name(automation.name)
    if not found:
        return client.create_automation(automation)
    for other in found[1:]:
        client.delete_automation(other.id)
    client.update_automation(found[0].id, automation)
    return found[0].id


def check_webhook(url: str) -> None:
    """Raises UserError for what no webhook can be; the URL is a secret and is not repeated."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        raise UserError(
            "this is no address of a webhook", field="--webhook", mend="Give an https:// (or http://) URL."
        )


def notify_failures(client: SyncPrefectClient, url: str) -> None:
    """Call the webhook at `url` whenever a run of ours fails, crashes or takes too long.

    The URL is kept in a block's secret field; an earlier one is replaced.
    """
    block = Webhook(url=SecretStr(url)).save(BLOCK, overwrite=True)
    for raw in read_yaml("failure-notification.yaml")["automations"]:
        actions = [{**action, "block_document_id": block} for action in raw["actions"]]
        put_automation(client, AutomationCore.model_validate({**raw, "actions": actions}))


def forget_notification(client: SyncPrefectClient) -> None:
    """Notify nobody any more: the automation goes, and the block with the URL."""
    for raw in read_yaml("failure-notification.yaml")["automations"]:
        for found in client.read_automations_by_name(raw["name"]):
            client.delete_automation(found.id)
    try:
        block = client.read_block_document_by_name(BLOCK, "webhook")
    except ObjectNotFound:
        return
    client.delete_block_document(block.id)


def notifies(client: SyncPrefectClient) -> bool:
    """Whether the server tells somebody of failures."""
    names = [raw["name"] for raw in read_yaml("failure-notification.yaml")["automations"]]
    return all(client.read_automations_by_name(name) for name in names)
